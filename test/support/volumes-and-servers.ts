import { spawnSync } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Answer, JsonObject } from '#cli/cloud/client.ts';
import type { DiskOwnerId, StorageFormat } from '#core/disk.ts';
import { describeError } from '#core/errors.ts';
import type { HostPath, ProjectId, SecretId } from '#core/ids.ts';
import { asDisk, disksOf } from '#db/disks.ts';
import { readUpTo } from '#host/files.ts';
import { diskFile } from '#host/storage/disk-file.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import type { ServiceOptions } from '#test/support/service.ts';

/** What block storage has. */
export type Kind = 'volume' | 'snapshot' | 'backup';

/** A file that is LUKS, or qcow2 with LUKS inside. */
export type EncryptedFile = { readonly path: string; readonly format: StorageFormat };

const HEADER_BYTES = 4 * 1024 * 1024;
/** How much of a disk a pattern covers. */
export const PATTERN_BYTES = 64 * 1024;
/** Tenths of a second: a whole volume is encrypted while a test waits. */
const PATIENCE = 900;

/** The service with volumes, snapshots and servers as a test wants them, and a look at what opens them. */
export class VolumesAndServers implements AsyncDisposable {
  readonly servers: ServerLab;
  readonly projectId: ProjectId;

  private constructor(servers: ServerLab, projectId: ProjectId) {
    this.servers = servers;
    this.projectId = projectId;
  }

  static async open(options: ServiceOptions = {}): Promise<VolumesAndServers> {
    const servers = await ServerLab.open(options);
    const headers = { 'x-subject-token': await servers.cloud.token() };
    const { token } = await servers.cloud.expect('identity', 'GET', '/v3/auth/tokens', { headers });
    return new VolumesAndServers(servers, token.project.id);
  }

  /** Asks block storage; returns whatever is answered. `path` starts after the project. */
  async ask(method: string, path: string, body?: JsonObject): Promise<Answer> {
    const headers = { 'openstack-api-version': 'volume 3.70' };
    const options = body === undefined ? { headers } : { headers, body };
    return await this.servers.cloud.request('volume', method, `/v3/${this.projectId}${path}`, options);
  }

  /** As `ask`, for what must succeed. */
  async must(method: string, path: string, body?: JsonObject): Promise<JsonObject> {
    const answer = await this.ask(method, path, body);
    if (answer.status < 400) return answer.body;
    throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  }

  /** A volume type whose volumes are encrypted. */
  async addEncryptedType(name: string, extraSpecs: JsonObject = {}, provider = 'luks'): Promise<void> {
    const { volume_type: type } = await this.must('POST', '/types', { volume_type: { name, extra_specs: extraSpecs } });
    const encryption = { provider, cipher: 'aes-xts-plain64', key_size: 256, control_location: 'front-end' };
    await this.must('POST', `/types/${type.id}/encryption`, { encryption });
  }

  /** A volume that is available. */
  async addVolume(wanted: JsonObject): Promise<string> {
    const { volume } = await this.must('POST', '/volumes', { volume: { size: 1, ...wanted } });
    await this.reach('volume', volume.id, 'available');
    return volume.id;
  }

  /** A snapshot that is available. */
  async addSnapshot(volumeId: string, more: JsonObject = {}): Promise<string> {
    const { snapshot } = await this.must('POST', '/snapshots', { snapshot: { volume_id: volumeId, ...more } });
    await this.reach('snapshot', snapshot.id, 'available');
    return snapshot.id;
  }

  /** The one of this name; null: there is none. */
  async find(kind: Kind, name: string): Promise<string | null> {
    const body = await this.must('GET', `/${kind}s?name=${encodeURIComponent(name)}`);
    return body[`${kind}s`][0]?.id ?? null;
  }

  /** A backup that is available. */
  async addBackup(volumeId: string, more: JsonObject = {}): Promise<string> {
    const { backup } = await this.must('POST', '/backups', { backup: { volume_id: volumeId, ...more } });
    await this.reach('backup', backup.id, 'available');
    await this.reach('volume', volumeId, 'available');
    return backup.id;
  }

  /** Kills the service at the point while it serves the request, does something meanwhile, and starts it again. */
  async crashAt(point: string, request: () => Promise<unknown>, meanwhile?: () => Promise<void>): Promise<void> {
    const { service } = this.servers;
    await service.crashAt(point, request, meanwhile);
    this.servers.cloud = await service.client();
  }

  async show(kind: Kind, id: string): Promise<JsonObject> {
    return (await this.must('GET', `/${kind}s/${id}`))[kind];
  }

  /** Waits for a status; `gone`: until it is not there. @throws when it ends in an error. */
  async reach(kind: Kind, id: string, wanted: string): Promise<void> {
    for (let i = 0; ; i++) {
      const { status, body } = await this.ask('GET', `/${kind}s/${id}`);
      const is = status === 404 ? 'gone' : body[kind]?.status;
      if (is === wanted) return;
      if (String(is).startsWith('error') || i > PATIENCE * this.servers.service.patience) {
        throw new Error(`${kind} ${id} is ${is}, not ${wanted}`);
      }
      await sleep(100 * this.servers.service.patience);
    }
  }

  async delete(kind: Kind, id: string): Promise<void> {
    await this.must('DELETE', `/${kind}s/${id}`);
    await this.reach(kind, id, 'gone');
  }

  async attach(serverId: string, volumeId: string, device?: string): Promise<JsonObject> {
    const body = { volumeAttachment: { volumeId, ...(device === undefined ? {} : { device }) } };
    const path = `/v2.1/servers/${serverId}/os-volume_attachments`;
    const { volumeAttachment } = await this.servers.cloud.expect('compute', 'POST', path, { body });
    await this.reach('volume', volumeId, 'in-use');
    return volumeAttachment;
  }

  async detach(serverId: string, volumeId: string): Promise<void> {
    const path = `/v2.1/servers/${serverId}/os-volume_attachments/${volumeId}`;
    await this.servers.cloud.expect('compute', 'DELETE', path);
    await this.reach('volume', volumeId, 'available');
  }

  /** Where the disk of a volume or a snapshot lies in a backend of files. */
  async mediumOf(owner: string): Promise<HostPath> {
    const [row] = await disksOf(this.servers.db, owner as DiskOwnerId);
    if (!row) throw new Error(`${owner} has no disk`);
    return diskFile(join(this.servers.service.stateDirectory, 'volumes', row.backend ?? ''), asDisk(row));
  }

  /** The same, with how it lies there. */
  async fileOf(owner: string): Promise<EncryptedFile> {
    const [row] = await disksOf(this.servers.db, owner as DiskOwnerId);
    return { path: await this.mediumOf(owner), format: row?.storage ?? 'raw' };
  }

  /** The secret of a volume or a snapshot; null: it has none. */
  async secretOf(owner: string): Promise<SecretId | null> {
    const [row] = await disksOf(this.servers.db, owner as DiskOwnerId);
    return row?.secret_id ?? null;
  }

  /** Whether a stored secret opens a disk: a raw one by cryptsetup, which may be told by its path, another by QEMU. */
  opens(secretId: SecretId, disk: string | EncryptedFile): Promise<boolean> {
    const file = typeof disk === 'string' ? { path: disk, format: 'raw' as const } : disk;
    const opens = file.format === 'qcow2' ? opensQcow2 : opensHeader;
    return this.withSecret(secretId, (key) => opens(key, file.path));
  }

  /** Whether an encrypted file holds this byte over and over, in clear, from its start. @throws when the secret opens it not. */
  holds(file: EncryptedFile, secretId: SecretId, byte: number): Promise<boolean> {
    const command = `read -P ${byte} 0 ${PATTERN_BYTES}`;
    return this.withSecret(secretId, (key) => !/verification failed/.test(inClear(key, file, command)));
  }

  /** Fills the start of an encrypted file with this byte, as a guest does. */
  async fill(file: EncryptedFile, secretId: SecretId, byte: number, length = PATTERN_BYTES): Promise<void> {
    await this.withSecret(secretId, (key) => inClear(key, file, `write -P ${byte} 0 ${length}`));
  }

  /** Lends a stored secret to a test that looks what it opens. */
  async withSecret<T>(secretId: SecretId, use: (key: Uint8Array) => T): Promise<T> {
    const rootKeyFile = join(this.servers.service.stateDirectory, 'root.key');
    using rootKey = await readRootKey(rootKeyFile, {});
    const store = await LocalKeyStore.open(this.servers.db, rootKey);
    const { project_id } = await this.servers.db
      .selectFrom('secrets')
      .select('project_id')
      .where('id', '=', secretId)
      .executeTakeFirstOrThrow();
    using key = await store.get(project_id, secretId);
    return key.use(use);
  }

  /** How many secrets are stored. */
  async countSecrets(): Promise<number> {
    return (await this.servers.db.selectFrom('secrets').select('id').execute()).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.servers[Symbol.asyncDispose]();
  }
}

/** Whether this passphrase opens a LUKS disk that lies raw in a file. */
export function opensHeader(passphrase: Uint8Array, path: string): boolean {
  const test = ['open', '--test-passphrase', '--key-file=-', path];
  const { status, stderr } = spawnSync('cryptsetup', test, { input: passphrase, encoding: 'utf8' });
  if (status === 0) return true;
  // cryptsetup(8): no permission, that is a wrong passphrase.
  if (status === 2) return false;
  throw new Error(`cryptsetup ended with ${status}: ${stderr}`);
}

function opensQcow2(passphrase: Uint8Array, path: string): boolean {
  try {
    inClear(passphrase, { path, format: 'qcow2' }, 'length');
    return true;
  } catch (error) {
    if (/Invalid password/.test(describeError(error))) return false;
    throw error;
  }
}

/** Runs one command of qemu-io on what an encrypted file holds in clear; returns what it prints. */
function inClear(passphrase: Uint8Array, { path, format }: EncryptedFile, command: string): string {
  const inLayer = format === 'qcow2' ? 'encrypt.' : '';
  const layer = format === 'qcow2' ? 'driver=qcow2,encrypt.format=luks' : 'driver=luks';
  const options = `${layer},${inLayer}key-secret=key,file.filename=${path}`;
  // QEMU opens a pipe by that name, and not the socket that a child of Node has there.
  // What is only read may be open in a guest.
  const sharing = command.startsWith('write') ? [] : ['--read-only', '--force-share'];
  const shell = ['-c', 'cat | exec qemu-io "$@"', 'sh', ...sharing, '-c', command, '--image-opts', options];
  const secret = ['--object', 'secret,id=key,file=/dev/stdin'];
  const { status, stderr, stdout } = spawnSync('sh', [...shell, ...secret], { input: passphrase, encoding: 'utf8' });
  if (status === 0 || /verification failed/.test(stdout)) return stdout;
  throw new Error(`qemu-io ended with ${status}: ${stderr}${stdout}`);
}

/** The first bytes of a medium, header included. */
export async function startOf(path: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  return await readUpTo(file, HEADER_BYTES, 0);
}
