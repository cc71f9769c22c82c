/**
 * What a service that is not root does with its disks, driven by lines of JSON on standard input: `[verb, …]`, each
 * answered by a line `{ok}` or `{error, code}`. Keys never leave it.
 */
import { open, readFile, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { DiskSpec } from '#core/disk.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { DiskId, HostPath } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { checkCipher } from '#host/encryption/dm-crypt/probe.ts';
import { runByHelper } from '#host/helper-client.ts';
import { prepareRunDirectory } from '#host/run-directory.ts';
import { diskLab, makeDisk, mediumOf } from '#test/support/disk-lab.ts';

const lab = await diskLab();
const keys = new Map<DiskId, Secret>();
const keyOf = (disk: DiskSpec) => keys.get(disk.id) ?? Secret.generate();
const driver = lab.driver('lvm');
const encryptor = (disk: DiskSpec) => lab.encryptorOf(disk.encryption ?? 'luks');

const verbs: Record<string, (...args: never[]) => Promise<unknown>> = {
  checkCipher: () => checkCipher('aes-xts-plain64', 512),
  make: async (disk: DiskSpec) => {
    keys.set(disk.id, Secret.generate());
    await makeDisk(lab, disk, keyOf(disk));
  },
  unlock: async (disk: DiskSpec) => encryptor(disk).unlock(disk, await mediumOf(driver, disk), keyOf(disk)),
  lock: (disk: DiskSpec) => encryptor(disk).lock(disk),
  grow: async (disk: DiskSpec) => driver.grow?.(disk, 16 * MIB),
  destroy: async (disk: DiskSpec) => {
    await encryptor(disk).destroy(disk, await mediumOf(driver, disk));
    await driver.delete(disk);
  },
  prepareRun: (path: HostPath) => prepareRunDirectory(path),
  write: (path: string, text: string) => writeFile(path, text, { flag: 'r+' }),
  read: async (path: string) => (await readFile(path)).toString('latin1', 0, 40),
  openDevice: async (path: string) => (await open(path, 'r')).close(),
  /** As a service that was taken over asks, without asking itself first whether it may. */
  askHelper: async (program: string, args: string[]) => {
    using stdin = Secret.generate();
    const given = args.includes('--key-file=-') ? { stdin } : {};
    const socket = process.env.NIGHTLATCH_TEST_ROOT_HELPER as HostPath;
    return (await runByHelper(socket, { program, args, doing: 'Trying', ...given })).answer.kind;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...args] = JSON.parse(line) as [string, ...never[]];
  const answer = await Promise.resolve(verbs[verb]?.(...args)).then(
    (ok) => ({ ok: ok ?? null }),
    (error: unknown) => ({
      error: describeError(error),
      code: error instanceof NightlatchError ? error.code : ((error as NodeJS.ErrnoException).code ?? 'bug'),
    }),
  );
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
// Without a helper nothing was opened, and nothing can be looked up.
await Promise.resolve(lab[Symbol.asyncDispose]()).catch(() => {});
