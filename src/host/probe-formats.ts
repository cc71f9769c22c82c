import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { describeError } from '#core/errors.ts';
import type { DiskId, ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import type { Encryptor } from '#host/encryption/encryptor.ts';
import { hasProgram, type Program } from '#host/exec.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import type { TriedFormats } from '#host/tried-formats.ts';

export type ProbedFormats = {
  readonly able: readonly EncryptionFormat[];
  /** Why each of the others is not, in words. */
  readonly problems: readonly string[];
};

/** Always the same, so that what a crash leaves of one probe is replaced and removed by the next. */
const NOBODY = '00000000-0000-4000-8000-000000000000' as ServerId;
const PROBE = '00000000-0000-4000-8000-000000000001' as DiskId;

/** The programs without which a host cannot encrypt. */
const PROGRAMS: readonly Program[] = ['cryptsetup', 'qemu-img', 'qemu-storage-daemon', 'setpriv'];

type EncryptorFor = (driver: StorageDriver, format: EncryptionFormat) => Encryptor | undefined;

/** Which encryption formats work on a host's storage; what needs the kernel is tried out, unless it is known to work. */
export async function workingFormats(
  storage: DiskSpec['storage'],
  driver: StorageDriver,
  encryptorFor: EncryptorFor,
  tried: TriedFormats,
): Promise<ProbedFormats> {
  const missing: Program[] = [];
  for (const program of PROGRAMS) if (!(await hasProgram(program))) missing.push(program);
  if (missing.length > 0) return { able: [], problems: [`Nothing can be encrypted without ${missing.join(', ')}`] };
  const encryptorOf = (format: EncryptionFormat) => encryptorFor(driver, format);
  if (driver.capabilities.blockDevice) return await tryFormats(storage, driver, encryptorOf, tried);
  return { able: driver.capabilities.formats.filter(encryptorOf), problems: [] };
}

/** Of each format, a small disk is made, opened, locked and removed. */
async function tryFormats(
  storage: DiskSpec['storage'],
  driver: StorageDriver,
  encryptorOf: (format: EncryptionFormat) => Encryptor | undefined,
  tried: TriedFormats,
): Promise<ProbedFormats> {
  const able: EncryptionFormat[] = [];
  const problems: string[] = [];
  for (const encryption of driver.capabilities.formats) {
    const encryptor = encryptorOf(encryption);
    if (!encryptor) continue;
    const kind = { role: 'ephemeral', ordinal: 0, generation: 0, sizeBytes: MIB, storage, encryption } as const;
    try {
      if (!tried.has(encryption)) {
        await tryOut({ ...kind, id: PROBE, ownerId: NOBODY, backend: null, secretId: null }, driver, encryptor);
        await tried.add(encryption);
      }
      able.push(encryption);
    } catch (error) {
      problems.push(`Encryption format ${encryption} does not work here: ${describeError(error)}`);
    }
  }
  return { able, problems };
}

async function tryOut(disk: DiskSpec, driver: StorageDriver, encryptor: Encryptor): Promise<void> {
  using key = Secret.generate();
  await encryptor.lock(disk);
  await driver.create(disk, null);
  try {
    const medium = { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };
    await encryptor.format(disk, medium, key);
    await encryptor.unlock(disk, medium, key);
    await encryptor.lock(disk);
  } finally {
    await driver.delete(disk);
  }
}
