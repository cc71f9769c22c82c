import type { Run } from '#host/storage/written-runs.ts';

/*
 * What `rbd import-diff` takes. *See* Ceph's documentation, "RBD Incremental Backup", the file format: after a line records of
 * `w`, offset and length as 64-bit little-endian numbers, and the data; an `e` at the end.
 */
export const diffStart = Buffer.from('rbd diff v1\n');
export const diffEnd = Buffer.from('e');

/** A record's head, and its data. */
export function diffRecord({ at, bytes }: Run): readonly [Buffer, Buffer] {
  const head = Buffer.alloc(17, 'w');
  head.writeBigUInt64LE(BigInt(at), 1);
  head.writeBigUInt64LE(BigInt(bytes.length), 9);
  return [head, bytes];
}
