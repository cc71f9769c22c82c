import { open } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';

/**
 * libvirt writes this over the magic of an unfinished save (`LibvirtQemudPart`) once all the memory is in place.
 * See libvirt, src/qemu/qemu_saveimage.h.
 */
const COMPLETE = Buffer.from('LibvirtQemudSave', 'latin1');

/** Whether a file holds a guest's memory that libvirt has finished saving. */
export async function isCompleteSave(path: HostPath): Promise<boolean> {
  await using file = await open(path, 'r');
  const magic = Buffer.alloc(COMPLETE.length);
  const { bytesRead } = await file.read(magic, 0, magic.length, 0);
  return bytesRead === magic.length && magic.equals(COMPLETE);
}
