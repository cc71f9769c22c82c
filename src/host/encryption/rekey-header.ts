import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crashPoint, type InnerCrashPoint } from '#core/crash-point.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Medium } from '#host/encryption/encryptor.ts';
import { run } from '#host/exec.ts';
import { tellingDiskFull } from '#host/files.ts';
import { scratchFolder } from '#host/scratch.ts';
import type { HeaderPart } from '#host/storage/storage-driver.ts';

/** What differs between the versions of LUKS. */
export type LuksLayout = {
  readonly type: 'luks1' | 'luks2';
  /** Bytes at the start that say what the rest is; each copy of them, in the order in which they may be written. */
  readonly metadata: readonly { readonly start: number; readonly end: number }[];
  /** Numbers of the key slots in use; null: this is no such header. */
  readonly slots: (header: Buffer) => readonly number[] | null;
  /** Where the key material of those slots lies; empty when this is no such header. */
  readonly areas: (header: Buffer) => readonly { readonly start: number; readonly end: number }[];
};

export type RekeyHow = {
  /** Takes what of a header has to be kept before the header is written. See `keptPart`. */
  readonly keep: (header: Buffer) => Promise<void>;
  /** The header is a copy of another disk's, and gets a UUID of its own: the disk's id. */
  readonly isCopy?: boolean;
};

/** The fewest iterations the formats allow: a passphrase of 256 random bits gains nothing from more. */
const ITERATIONS = 1000;
const TIMEOUT_MS = 60_000;
/** cryptsetup(8): no passphrase fits. */
const WRONG_KEY = 2;
const CHUNK = 4096;

/**
 * Makes `to` the only key that opens a header, with the volume key as it is. All of it is done and tried on a copy in
 * memory; what reached the medium is read back.
 *
 * The new slot is durable before the old one is touched, and key material always before the metadata that speaks of it.
 * `keep` is given what only `to` opens before the medium is without the old slot.
 * *Crash*: `from` or `to` opens it, or both, and a *repeat* goes on from there, which ends with the old key material
 * overwritten. *Throws* disk-wrong-key when neither opens it; disk-full, with `from` still in force.
 */
export async function rekeyHeader(
  disk: DiskSpec,
  medium: Medium,
  { from, to }: { readonly from: Secret; readonly to: Secret },
  layout: LuksLayout,
  runDirectory: HostPath,
  { keep, isCopy = false }: RekeyHow,
): Promise<void> {
  const doing = `Rekeying disk ${disk.id}`;
  await using folder = await scratchFolder(runDirectory);
  const copy = join(folder.path, 'header');
  await writeFile(copy, await medium.header.read(), { mode: 0o600, flag: 'wx' });
  if (isCopy) await run('cryptsetup', ['luksUUID', '-q', '--uuid', disk.id, copy], { doing, timeoutMs: TIMEOUT_MS });
  const slotOf = (key: Secret) => openedSlot(copy, key, layout, doing);
  const store = (half: InnerCrashPoint) =>
    tellingDiskFull(doing, medium.header.place, async () =>
      writeHeader(medium, await readFile(copy), layout, half, doing),
    );
  let kept = await slotOf(to);
  if (kept === null) {
    if ((await slotOf(from)) === null) throw new NightlatchError('disk-wrong-key', { disk: disk.id });
    await addKey(copy, from, to, layout, doing);
    kept = await slotOf(to);
    if (kept === null) throw new Error(`${doing}: a key that was just added opens nothing`);
    await store('encryptor.rekey.new-written');
    crashPoint('encryptor.rekey.added');
  }
  for (const slot of layout.slots(await readFile(copy)) ?? []) {
    if (slot !== kept) {
      await run('cryptsetup', ['luksKillSlot', '-q', copy, String(slot)], { doing, timeoutMs: TIMEOUT_MS });
    }
  }
  if ((await slotOf(to)) !== kept) throw new Error(`${doing}: the slot that was kept opens no more`);
  if ((await slotOf(from)) !== null) throw new Error(`${doing}: the old key still opens it; is it the new one?`);
  await keep(keptPart(await readFile(copy), layout));
  await store('encryptor.rekey.old-overwritten');
  crashPoint('encryptor.rekey.removed');
}

/** What of a header a key needs, as long as the header: its metadata and the key material of its slots, the rest zeros. */
export function keptPart(header: Buffer, { metadata, areas }: LuksLayout): Buffer {
  const kept = Buffer.alloc(header.length);
  for (const { start, end } of [...metadata, ...areas(header)]) header.copy(kept, start, start, end);
  return kept;
}

/** Which slot of a header in a file a key opens; null: none. */
export async function openedSlot(
  copy: string,
  key: Secret,
  { type }: LuksLayout,
  doing: string,
): Promise<number | null> {
  const args = ['open', '-v', '--type', type, '--test-passphrase', '--key-file=-', copy];
  const { code, stdout, stderr } = await run('cryptsetup', args, {
    doing,
    stdin: key,
    tolerate: [WRONG_KEY],
    timeoutMs: TIMEOUT_MS,
  });
  if (code === WRONG_KEY) return null;
  const [, slot] = /^Key slot (\d+) unlocked/m.exec(stdout + stderr) ?? [];
  if (slot === undefined) throw new Error(`${doing}: cryptsetup did not say which slot it opened`);
  return Number(slot);
}

async function addKey(copy: string, from: Secret, to: Secret, { type }: LuksLayout, doing: string): Promise<void> {
  const pbkdf = type === 'luks2' ? ['--pbkdf', 'pbkdf2'] : [];
  const cheap = [...pbkdf, '--pbkdf-force-iterations', String(ITERATIONS), '--hash', 'sha256'];
  const args = ['luksAddKey', '-q', ...cheap, '--key-file=-', copy, '/dev/fd/3'];
  await run('cryptsetup', args, { doing, stdin: from, fd3: to, timeoutMs: TIMEOUT_MS });
}

/** Makes `after` the header of a medium, durably, in the order of `changes`, and reads it back. */
export async function writeHeader(
  { header }: Medium,
  after: Buffer,
  layout: LuksLayout,
  half: InnerCrashPoint,
  doing: string,
): Promise<void> {
  for (const part of changes(await header.read(), after, layout)) {
    await header.write(part);
    crashPoint(half);
  }
  if (!(await header.read()).equals(after)) throw new Error(`${doing}: the medium does not hold what was written`);
}

/**
 * What to write to make `before` into `after`, in parts that are durable one after the other: key material, then each copy
 * of the metadata. A header of which any first so many of these sectors are written opens with whatever opened `before`, or
 * whatever opens `after`. Pure.
 */
export function changes(before: Buffer, after: Buffer, { metadata }: LuksLayout): HeaderPart[][] {
  if (after.length !== before.length) throw new Error('the length of a header changed');
  const material = { start: Math.max(...metadata.map(({ end }) => end)), end: after.length };
  return [material, ...metadata].map(({ start, end }) => {
    const part: HeaderPart[] = [];
    for (let at = start; at < end; at += CHUNK) {
      const bytes = after.subarray(at, Math.min(at + CHUNK, end));
      if (!bytes.equals(before.subarray(at, at + bytes.length))) part.push({ at, bytes });
    }
    return part;
  });
}
