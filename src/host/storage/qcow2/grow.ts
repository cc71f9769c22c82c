import { open } from 'node:fs/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { readUpTo, writeAll } from '#host/files.ts';

const HEADER_BYTES = 104;
const MAGIC = 0x514649fb;
const SIZE_AT = 24;
const L1_SIZE_AT = 36;
const ENTRY_BYTES = 8;

/**
 * Makes an image larger that is encrypted, without its key: `qemu-img resize` would ask for it and use it for nothing. The
 * new part has no clusters yet, so only the header says that it is there. The table of tables (L1) is as long as the
 * clusters it has (a cluster of it stands for 4 TiB); beyond them it would have to move. *Repeat*: fine.
 *
 * *See* QEMU docs/interop/qcow2.txt, "Header". *Throws* not-implemented when the table would have to move.
 */
export async function growImage(path: HostPath, sizeBytes: number, doing: string): Promise<void> {
  await using file = await open(path, 'r+');
  const header = await readUpTo(file, HEADER_BYTES, 0);
  if (header.length < HEADER_BYTES || header.readUInt32BE(0) !== MAGIC) throw new Error(`${path} is no qcow2 image`);
  if (header.readBigUInt64BE(SIZE_AT) >= BigInt(sizeBytes)) return;
  const clusterBytes = 2 ** header.readUInt32BE(20);
  const bytesAnEntry = clusterBytes * (clusterBytes / ENTRY_BYTES);
  const wanted = Math.max(Math.ceil(sizeBytes / bytesAnEntry), header.readUInt32BE(L1_SIZE_AT));
  const table = { offset: Number(header.readBigUInt64BE(40)), bytes: header.readUInt32BE(L1_SIZE_AT) * ENTRY_BYTES };
  const room = Math.ceil(table.bytes / clusterBytes) * clusterBytes;
  const rest = await readUpTo(file, room - table.bytes, table.offset + table.bytes);
  if (wanted * ENTRY_BYTES > room || rest.some((byte) => byte !== 0)) {
    const reason = `${doing} to ${sizeBytes} bytes is not supported in place: the table in its image is full.`;
    throw new NightlatchError('not-implemented', { reason });
  }
  header.writeUInt32BE(wanted, L1_SIZE_AT);
  header.writeBigUInt64BE(BigInt(sizeBytes), SIZE_AT);
  // Both fields lie in one sector: a crash leaves both as they were, or both as they are to be.
  await writeAll(file, header.subarray(SIZE_AT, L1_SIZE_AT + 4), SIZE_AT);
  await file.sync();
}
