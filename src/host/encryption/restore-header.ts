import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Medium } from '#host/encryption/encryptor.ts';
import { type LuksLayout, openedSlot, writeHeader } from '#host/encryption/rekey-header.ts';
import { tellingDiskFull } from '#host/files.ts';
import { scratchFolder } from '#host/scratch.ts';

/**
 * Puts a kept header back where a disk has its own, whatever lies there now: only after `key` has opened it in memory. What
 * reached the medium is read back.
 *
 * *Repeat*: fine. *Crash*: leaves what was there, the kept header, or a part of each; a repeat mends it. *Throws*
 * header-backup-unusable, with nothing written; disk-full.
 */
export async function restoreHeader(
  disk: DiskSpec,
  medium: Medium,
  { header, key }: { readonly header: Buffer; readonly key: Secret },
  layout: LuksLayout,
  runDirectory: HostPath,
): Promise<void> {
  const doing = `Restoring the header of disk ${disk.id}`;
  const unusable = (reason: string) => new NightlatchError('header-backup-unusable', { disk: disk.id, reason });
  if (header.length !== medium.header.length) throw unusable(`it has ${header.length} bytes`);
  if (layout.slots(header) === null) throw unusable('it is damaged');
  await using folder = await scratchFolder(runDirectory);
  const copy = join(folder.path, 'header');
  await writeFile(copy, header, { mode: 0o600, flag: 'wx' });
  if ((await openedSlot(copy, key, layout, doing)) === null) throw unusable('the key of the disk does not open it');
  const write = () => writeHeader(medium, header, layout, 'encryptor.restore-header.part-written', doing);
  await tellingDiskFull(doing, medium.header.place, write);
}
