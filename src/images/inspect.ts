import { open } from 'node:fs/promises';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { DiskFormat } from '#core/image.ts';
import type { ImageEncryption } from '#core/image-encryption.ts';
import { GIB, roundUpToSector, SECTOR } from '#core/sizes.ts';
import { missing, run } from '#host/exec.ts';
import { foreignFormat, isIso9660, MAGIC_BYTES } from '#images/magic.ts';
import { incompatible, readQcow2Header } from '#images/qcow2-header.ts';

/** The largest disk an image may make. */
const MAX_VIRTUAL_BYTES = 16 * 1024 * GIB;
const QEMU_IMG_TIMEOUT_MS = 60_000;
/** Limits on the program that reads what a stranger sent. */
const QEMU_IMG_LIMITS = [`--as=${GIB}`, '--cpu=30', '--fsize=0', '--nofile=64'];
/** Exit code of `qemu-img check` for clusters nobody uses: wasteful, not wrong. */
const LEAKS_ONLY = 3;
/** Of a qcow2 header. */
const CRYPT_METHOD_LUKS = 2;
/** Exit code of `prlimit` when it cannot find the program, as for a shell. */
const NO_SUCH_PROGRAM = 127;

/**
 * Guarantees that a file is what `format` claims and refers to nothing outside itself, and says how many bytes a disk
 * made from it needs. The format is never guessed. A qcow2 file with internal snapshots is taken: a copy leaves them out.
 * `encryption`: what its properties claim; a file that is encrypted though they do not say so is refused, and one that is
 * not though they do.
 *
 * *Throws* image-invalid (400) with what is wrong; program-missing.
 */
export async function inspectImage(
  image: string,
  path: HostPath,
  format: DiskFormat,
  encryption: ImageEncryption | null,
): Promise<number> {
  const { start, size } = await readStart(path);
  const refuse = (reason: string): never => {
    throw new NightlatchError('image-invalid', { image, reason });
  };
  if (size === 0) return refuse('it is empty');
  const isEncrypted = encryption !== null;
  const virtualSize = sizeFromStart(start, size, format, isEncrypted, refuse);
  if (virtualSize > MAX_VIRTUAL_BYTES) return refuse('a disk made from it would be larger than 16 TiB');
  const claimed = encryption?.sizeBytes ?? virtualSize;
  if (claimed !== virtualSize) refuse(`its os_decrypt_size is ${claimed}, but it holds ${virtualSize} bytes`);
  if (format === 'qcow2') await checkQcow2(path, virtualSize, isEncrypted, refuse);
  return roundUpToSector(virtualSize);
}

type Refuse = (reason: string) => never;

function sizeFromStart(start: Buffer, size: number, format: DiskFormat, isEncrypted: boolean, refuse: Refuse): number {
  if (format === 'qcow2') return checkQcow2Header(start, isEncrypted, refuse);
  return isEncrypted ? checkLuks(start, size, format, refuse) : checkRaw(start, size, format, refuse);
}

/** See LUKS On-Disk Format Specification 1.2.3, figure 2: `version` and `payload-offset`. */
function checkLuks(start: Buffer, size: number, format: DiskFormat, refuse: Refuse): number {
  if (format === 'iso') refuse('an encrypted image is raw or qcow2');
  if (foreignFormat(start) !== 'LUKS' || start.readUInt16BE(6) !== 1) {
    refuse('its properties say that it is encrypted, but it has no LUKSv1 header');
  }
  const payload = size - start.readUInt32BE(104) * SECTOR;
  if (payload <= 0 || payload % SECTOR !== 0) refuse('it ends before the data that its LUKS header speaks of');
  return payload;
}

function checkRaw(start: Buffer, size: number, format: DiskFormat, refuse: Refuse): number {
  const foreign = foreignFormat(start);
  if (foreign !== null) {
    refuse(
      `its disk_format is ${format}, but it starts as a ${foreign} file; set the disk_format it has, or convert it`,
    );
  }
  if (format === 'iso' && !isIso9660(start)) refuse('its disk_format is iso, but it has no ISO 9660 volume descriptor');
  return size;
}

/** Looks before QEMU does: opening a file that names others makes QEMU open those too. */
function checkQcow2Header(start: Buffer, isEncrypted: boolean, refuse: Refuse): number {
  const header = readQcow2Header(start);
  if (header === null) return refuse('its disk_format is qcow2, but it has no qcow2 header of version 2 or 3');
  if (header.backingFileOffset !== 0n) refuse('it has a backing file; flatten it with qemu-img convert');
  if (header.incompatibleFeatures & incompatible.externalData) {
    refuse('it has an external data file; flatten it with qemu-img convert');
  }
  if (header.incompatibleFeatures & incompatible.corrupt)
    refuse('it is marked as corrupt; repair it with qemu-img check -r');
  checkEncrypted(header.cryptMethod !== 0, isEncrypted, refuse);
  if (isEncrypted && header.cryptMethod !== CRYPT_METHOD_LUKS) refuse('it is encrypted, but not by LUKS');
  if (header.virtualSizeBytes === 0n) refuse('its virtual size is 0');
  return Number(header.virtualSizeBytes);
}

function checkEncrypted(found: boolean, isEncrypted: boolean, refuse: Refuse): void {
  if (found && !isEncrypted) {
    refuse('it is encrypted; decrypt it with qemu-img convert, or set os_encrypt_format and os_encrypt_key_id');
  }
  if (!found && isEncrypted) refuse('its properties say that it is encrypted, but it is not');
}

async function checkQcow2(path: HostPath, virtualSize: number, isEncrypted: boolean, refuse: Refuse): Promise<void> {
  const info = await qemuImg('info', path, refuse);
  const facts = info as { 'virtual-size'?: unknown; 'backing-filename'?: unknown; 'format-specific'?: Specific };
  const details = facts['format-specific']?.data;
  // The same questions again, now to QEMU itself: what it will do is what counts.
  if (facts['backing-filename'] !== undefined) refuse('it has a backing file; flatten it with qemu-img convert');
  if (details?.['data-file'] !== undefined) refuse('it has an external data file; flatten it with qemu-img convert');
  checkEncrypted(details?.encrypt?.format === 'luks', isEncrypted, refuse);
  if (details?.encrypt !== undefined && !isEncrypted) refuse('it is encrypted');
  if (details?.corrupt) refuse('it is marked as corrupt; repair it with qemu-img check -r');
  if (facts['virtual-size'] !== roundUpToSector(virtualSize)) refuse('its virtual size cannot be told');
  // Its clusters are checked only by who has its key: QEMU opens it for nothing else without.
  if (isEncrypted) return;
  const check = (await qemuImg('check', path, refuse)) as { corruptions?: number; 'check-errors'?: number };
  if (check.corruptions || check['check-errors'])
    refuse('it is truncated or damaged; qemu-img check finds errors in it');
}

type Specific = {
  readonly data?: { 'data-file'?: unknown; encrypt?: { format?: unknown }; corrupt?: boolean };
};

/** What `qemu-img VERB -f qcow2` says of the file; it runs with limits on memory, time and files. */
async function qemuImg(verb: 'info' | 'check', path: HostPath, refuse: Refuse): Promise<unknown> {
  const doing = `Examining an image with qemu-img ${verb}`;
  const args = [...QEMU_IMG_LIMITS, 'qemu-img', verb, '-f', 'qcow2', '--output=json', path];
  // `check` reports corruption by exit code 2 and leaks by 3, both with its JSON.
  const tolerate = [NO_SUCH_PROGRAM, 2, LEAKS_ONLY];
  const outcome = await run('prlimit', args, { doing, timeoutMs: QEMU_IMG_TIMEOUT_MS, tolerate }).catch((error) => {
    if (error instanceof NightlatchError && error.code === 'program-failed') return error;
    throw error;
  });
  if (outcome instanceof NightlatchError) return refuse(`qemu-img cannot read it: ${lastSentence(outcome)}`);
  if (outcome.code === NO_SUCH_PROGRAM) throw missing('qemu-img', doing);
  try {
    return JSON.parse(outcome.stdout);
  } catch (error) {
    return refuse(`qemu-img cannot make sense of it (${describeError(error)})`);
  }
}

/** What qemu-img complained of, without our path. */
function lastSentence(error: NightlatchError): string {
  const stderr = String(error.details.stderr ?? '');
  return stderr.replace(/^.*'[^']*\.partial': /, '').replace(/\.$/, '') || String(error.details.outcome ?? 'it failed');
}

async function readStart(path: HostPath): Promise<{ start: Buffer; size: number }> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const start = Buffer.alloc(Math.min(size, MAGIC_BYTES));
  await file.read(start, 0, start.length, 0);
  return { start, size };
}
