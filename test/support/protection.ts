import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ProjectId, SecretId } from '#core/ids.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { findInMemory } from '#test/support/memory-scan.ts';
import { libvirtSecrets } from '#test/support/strays.ts';
import type { TroubleLab } from '#test/support/trouble-lab.ts';
import { cryptMappings, deviceHolds, diskKeysInKeyrings, diskVolumes } from '#test/support/volume-group.ts';

/** The columns of the tables in docs/security.md, in their order. */
const COLUMNS = [
  'key in QEMU',
  'key in the kernel',
  'libvirt secret',
  'lease open',
  'key in the key store',
  'readable from the medium',
] as const;
export type Protection = Readonly<Record<(typeof COLUMNS)[number], string>>;
/** Who decrypts the disks: each has a table. */
export type Engine = 'QEMU' | 'the kernel';

const DOCUMENT = new URL('../../docs/security.md', import.meta.url);
/** What every disk of a server holds in clear, but for a root disk that holds what it was given. */
const MARKERS = ['ephemeral0', 'SWAPSPACE2', 'config-2', 'LibvirtQemud', 'MARKER-OF-THE-IMAGE'];
const MARKED_BYTES = 64 * 1024 * 1024;

/** What the document says of a state. @throws when it has no such line. */
export async function documented(engine: Engine, state: string): Promise<Protection> {
  const text = await readFile(DOCUMENT, 'utf8');
  const [, table = ''] = text.split(`\nDisks that ${engine} decrypts: `);
  const lines = table.split('\n\n', 2)[1]?.split('\n') ?? [];
  assert.deepEqual(cells(lines[0]), ['state', ...COLUMNS], `the table of disks that ${engine} decrypts`);
  const row = lines.map(cells).find(([name]) => name === state);
  assert.ok(row, `docs/security.md says nothing of "${state}" of disks that ${engine} decrypts`);
  return Object.fromEntries(COLUMNS.map((column, i) => [column, row[i + 1]])) as Protection;
}

function cells(line: string | undefined): string[] {
  return (line ?? '')
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim());
}

/** Looks at one server from outside of the service, as the document's columns ask. */
export class ProtectionWatch {
  readonly #lab: TroubleLab;
  readonly #server: string;
  readonly #secrets: readonly SecretId[];
  readonly #passphrases: readonly Buffer[];

  private constructor(lab: TroubleLab, server: string, secrets: readonly SecretId[], passphrases: readonly Buffer[]) {
    this.#lab = lab;
    this.#server = server;
    this.#secrets = secrets;
    this.#passphrases = passphrases;
  }

  /** Takes note of the keys of a server's disks, to know them where they are found. */
  static async of(lab: TroubleLab, server: string): Promise<ProtectionWatch> {
    using root = await readRootKey(join(lab.service.stateDirectory, 'root.key'), {});
    const store = await LocalKeyStore.open(lab.db, root);
    const disks = await lab.db
      .selectFrom('disks')
      .select(['secret_id', 'project_id'])
      .where('owner_id', '=', server as never)
      .where('secret_id', 'is not', null)
      .execute();
    const secrets = disks.map(({ secret_id }) => secret_id as SecretId);
    const keys = await Promise.all(
      disks.map(async ({ secret_id, project_id }) => {
        using key = await store.get(project_id as ProjectId, secret_id as SecretId);
        return key.use((bytes) => Buffer.from(bytes));
      }),
    );
    assert.ok(keys.length > 0, 'the server has no key');
    return new ProtectionWatch(lab, server, secrets, keys);
  }

  /** Holds the document to what is found now. */
  async expectDocumented(engine: Engine, state: string): Promise<void> {
    assert.deepEqual({ state, ...(await this.#found()) }, { state, ...(await documented(engine, state)) });
  }

  async #found(): Promise<Protection> {
    const facts = [
      await this.#isInQemu(),
      await this.#isInKernel(),
      (await libvirtSecrets(this.#lab.service.stateDirectory)).length > 0,
      (await this.#lab.leasesOf(this.#server)) > 0,
      await this.#isStored(),
      await this.#isReadable(),
    ];
    return Object.fromEntries(COLUMNS.map((column, i) => [column, facts[i] ? 'yes' : 'no'])) as Protection;
  }

  async #isInQemu(): Promise<boolean> {
    for (const pid of await this.#lab.guests()) {
      for (const key of this.#passphrases) if ((await findInMemory(pid, key)).length > 0) return true;
    }
    return false;
  }

  async #isInKernel(): Promise<boolean> {
    if ((await diskKeysInKeyrings()).length > 0) return true;
    // A kernel without device-mapper has no other place for one.
    if (!(await readFile('/proc/misc', 'utf8')).includes('device-mapper')) return false;
    const own = (await cryptMappings()).filter(({ name }) => name.startsWith(`nl-${this.#server}-`));
    return own.some(({ hasKey }) => hasKey);
  }

  async #isStored(): Promise<boolean> {
    const found = this.#lab.db.selectFrom('secrets').select('id').where('id', 'in', this.#secrets);
    return (await found.execute()).length > 0;
  }

  async #isReadable(): Promise<boolean> {
    for (const path of await this.#media()) if (await deviceHolds(path, MARKERS, MARKED_BYTES)) return true;
    return false;
  }

  async #media(): Promise<string[]> {
    if (this.#lab.service.imagesType === 'lvm') {
      return (await diskVolumes()).flatMap(({ name, path }) => (name.startsWith(`${this.#server}_`) ? [path] : []));
    }
    const folder = join(this.#lab.service.stateDirectory, 'disks', this.#server);
    return (await readdir(folder).catch(() => [])).map((name) => join(folder, name));
  }
}
