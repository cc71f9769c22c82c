import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Answer, JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import type { Disk, DiskOwnerId } from '#core/disk.ts';
import type { HostPath, ProjectId, SecretId } from '#core/ids.ts';
import { asDisk, type DiskRow, disksOf } from '#db/disks.ts';
import { diskFile } from '#host/storage/disk-file.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { command } from '#test/support/command.ts';
import { copyStart, type EncryptedMedium, inClear, opensMedium } from '#test/support/encrypted-medium.ts';
import { imageInPool } from '#test/support/pool.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import type { ServiceOptions } from '#test/support/service.ts';
import { providerUnderTest } from '#test/support/volume-backends.ts';
import { lookAtVolume } from '#test/support/volume-group.ts';
import { waitUntil } from '#test/support/wait.ts';

/** What block storage has. */
export type Kind = 'volume' | 'snapshot' | 'backup';

/** How much of a disk a pattern covers. */
export const PATTERN_BYTES = 64 * 1024;
/** Tenths of a second: a whole volume is encrypted while a test waits. */
const PATIENCE = 900;

/** The service with volumes, snapshots and servers as a test wants them, and a look at what opens them. */
export class VolumesAndServers implements AsyncDisposable {
  readonly servers: ServerLab;
  readonly projectId: ProjectId;
  /** Where the one host has its data. */
  hostDirectory: string;

  private constructor(servers: ServerLab, projectId: ProjectId) {
    this.servers = servers;
    this.hostDirectory = servers.service.stateDirectory;
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
  async addEncryptedType(name: string, extraSpecs: JsonObject = {}, provider = providerUnderTest): Promise<void> {
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

  /** Waits until nothing is done to any volume, snapshot or backup: some operations show in no status. */
  async settled(): Promise<void> {
    const { db, service } = this.servers;
    const isSettled = async () => {
      const tables = ['volumes', 'snapshots', 'backups'] as const;
      const busy = tables.map((table) =>
        db.selectFrom(table).select('id').where('operation', 'is not', null).execute(),
      );
      return (await Promise.all(busy)).flat().length === 0;
    };
    await waitUntil('nothing is done in block storage', isSettled, 100 * PATIENCE * service.patience);
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

  /** As `detach`, from a running guest of the boot sector, which has to be told to let go. */
  async detachFromGuest(serverId: string, volumeId: string): Promise<void> {
    const path = `/v2.1/servers/${serverId}/os-volume_attachments/${volumeId}`;
    await this.servers.cloud.expect('compute', 'DELETE', path);
    await this.letGoInGuest(serverId, volumeId);
  }

  /** Tells a guest of the boot sector to let go, until the volume that is being detached is available. */
  async letGoInGuest(serverId: string, volumeId: string): Promise<void> {
    const { cloud, service } = this.servers;
    using guest = await GuestConsole.open(await cloud.serialConsoleUrl(serverId));
    const isFree = async () => {
      await guest.exchange('e', /k/);
      return (await this.show('volume', volumeId)).status === 'available';
    };
    await waitUntil(`volume ${volumeId} is available`, isFree, 20_000 * service.patience);
  }

  /** As large as the one guest there is has a volume, as its libvirt tells. */
  async bytesInGuest(volumeId: string): Promise<number> {
    const [{ device }] = (await this.show('volume', volumeId)).attachments;
    const told = this.virsh('domblkinfo', this.#guest(), device.replace('/dev/', ''));
    return Number(/Capacity:\s+(\d+)/.exec(told)?.[1]);
  }

  /** The serial numbers of the disks that the one guest has, starts of their owners' ids; none: no guest runs. */
  disksInGuest(): string[] {
    const guest = this.#guest();
    if (guest === '') return [];
    return [...this.virsh('dumpxml', guest).matchAll(/<serial>(.*?)<\/serial>/g)].map(([, serial]) => serial ?? '');
  }

  #guest(): string {
    return this.virsh('list', '--name').trim().split('\n')[0] ?? '';
  }

  /** What the private libvirt says. */
  virsh(...args: string[]): string {
    const socket = encodeURIComponent(`${this.servers.service.stateDirectory}/run/lv/run/libvirt-sock`);
    return command('virsh', ['--quiet', '--connect', `qemu+unix:///system?socket=${socket}`, ...args]);
  }

  /** Where the disk of a volume or a snapshot lies. @throws when it lies on a logical volume of another size. */
  async mediumOf(owner: string): Promise<HostPath> {
    return (await this.fileOf(owner)).path;
  }

  /** The same, with how it lies there. */
  async fileOf(owner: string): Promise<EncryptedMedium & { readonly path: HostPath }> {
    const disk = await this.diskOf(owner);
    const encryption = disk.encryption === null ? {} : { encryption: disk.encryption };
    if (disk.storage === 'rbd') {
      const rbd = imageInPool(disk);
      const path = join(this.servers.service.directory, `start-of-${rbd.image}`) as HostPath;
      copyStart(rbd, path);
      return { path, format: 'rbd', rbd, ...encryption };
    }
    const folder = join(this.hostDirectory, 'volumes', disk.backend ?? '');
    const path = disk.storage === 'lvm' ? (await lookAtVolume(disk)).path : diskFile(folder, disk);
    return { path, format: disk.storage, ...encryption };
  }

  /** The disk of a volume or a snapshot. */
  async diskOf(owner: string): Promise<Disk> {
    const row = await this.#rowOf(owner);
    if (!row) throw new Error(`${owner} has no disk`);
    return asDisk(row);
  }

  async #rowOf(owner: string): Promise<DiskRow | undefined> {
    const rows = await disksOf(this.servers.db, owner as DiskOwnerId);
    return rows.find(({ standing }) => standing === 'live') ?? rows[0];
  }

  /** The secret of a volume or a snapshot; null: it has none. */
  async secretOf(owner: string): Promise<SecretId | null> {
    return (await this.#rowOf(owner))?.secret_id ?? null;
  }

  /** Whether a stored secret opens a disk; one that starts with its LUKS header may be told by its path. */
  opens(secretId: SecretId, disk: string | EncryptedMedium): Promise<boolean> {
    const medium = typeof disk === 'string' ? { path: disk, format: 'raw' as const } : disk;
    return this.withSecret(secretId, (key) => opensMedium(key, medium));
  }

  /** Whether a disk holds this byte over and over, in clear, from its start; null: it is not encrypted. @throws when the secret opens it not. */
  async holds(medium: EncryptedMedium, secretId: SecretId | null, byte: number): Promise<boolean> {
    const read = (key: Uint8Array | null) => inClear(key, medium, `read -P ${byte} 0 ${PATTERN_BYTES}`);
    const told = secretId === null ? read(null) : await this.withSecret(secretId, read);
    return !/verification failed/.test(told);
  }

  /** Fills the start of an encrypted disk with this byte, as a guest does. */
  async fill(medium: EncryptedMedium, secretId: SecretId, byte: number, length = PATTERN_BYTES): Promise<void> {
    await this.withSecret(secretId, (key) => inClear(key, medium, `write -P ${byte} 0 ${length}`));
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
