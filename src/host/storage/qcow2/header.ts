/** Where a qcow2 image keeps the header of its full disk encryption, in bytes from the start of the file. */
export type EncryptionHeaderPointer = { readonly offset: number; readonly length: number };

/** Bytes from the start of an image within which its header extensions lie: one cluster, which is at most 2 MiB. */
export const LONGEST_QCOW2_HEADER = 2 ** 21;

const MAGIC = 0x514649fb;
const VERSION_2_HEADER_LENGTH = 72;
const CRYPT_METHOD_LUKS = 2;
const END_OF_EXTENSIONS = 0;
const FULL_DISK_ENCRYPTION = 0x0537be77;

/**
 * Reads the header extension "full disk encryption header pointer" from `head`, the first bytes of an image. Null: this
 * is no qcow2 image, or one without that extension.
 *
 * Every length is checked against what there is, and every step goes forward, so that no input makes it fail or hang.
 * *Throws* RangeError, with what is wrong, for a qcow2 image that contradicts itself.
 * *See* QEMU docs/interop/qcow2.txt, "Header" and "Full disk encryption header pointer".
 */
export function findEncryptionHeader(head: Buffer, fileBytes: number): EncryptionHeaderPointer | null {
  if (head.length < VERSION_2_HEADER_LENGTH || head.readUInt32BE(0) !== MAGIC) return null;
  const version = head.readUInt32BE(4);
  check(version === 2 || version === 3, `version ${version} is unknown`);
  const clusterBits = head.readUInt32BE(20);
  check(clusterBits >= 9 && clusterBits <= 21, `clusters of 2^${clusterBits} bytes are out of range`);
  if (head.readUInt32BE(32) !== CRYPT_METHOD_LUKS) return null;
  const limit = Math.min(head.length, extensionsEnd(head, 2 ** clusterBits));
  const pointer = findExtension(head, headerLength(head, version), limit);
  if (pointer === null) return null;
  check(pointer.length === 16, `its encryption pointer has ${pointer.length} bytes instead of 16`);
  return checkedPointer(pointer, 2 ** clusterBits, fileBytes);
}

function headerLength(head: Buffer, version: number): number {
  if (version === 2) return VERSION_2_HEADER_LENGTH;
  check(head.length >= 104, 'it ends inside its header');
  const length = head.readUInt32BE(100);
  check(length >= 104 && length % 8 === 0, `a header of ${length} bytes is out of range`);
  return length;
}

/** Extensions lie in the first cluster, before the name of the backing file if there is one. */
function extensionsEnd(head: Buffer, clusterBytes: number): number {
  const backingName = head.readBigUInt64BE(8);
  if (backingName === 0n) return clusterBytes;
  check(backingName < BigInt(clusterBytes), 'the name of its backing file lies outside the first cluster');
  return Number(backingName);
}

function findExtension(head: Buffer, start: number, limit: number): Buffer | null {
  for (let at = start; at + 8 <= limit; ) {
    const type = head.readUInt32BE(at);
    const length = head.readUInt32BE(at + 4);
    if (type === END_OF_EXTENSIONS) return null;
    check(length <= limit - at - 8, `a header extension of ${length} bytes does not fit`);
    if (type === FULL_DISK_ENCRYPTION) return head.subarray(at + 8, at + 8 + length);
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return null;
}

function checkedPointer(pointer: Buffer, clusterBytes: number, fileBytes: number): EncryptionHeaderPointer {
  const offset = pointer.readBigUInt64BE(0);
  const length = pointer.readBigUInt64BE(8);
  check(offset >= BigInt(clusterBytes), 'its encryption header overlaps its own header');
  check(offset % BigInt(clusterBytes) === 0n, 'its encryption header does not start at a cluster');
  check(length > 0n && offset + length <= BigInt(fileBytes), 'its encryption header lies beyond its end');
  return { offset: Number(offset), length: Number(length) };
}

function check(condition: boolean, problem: string): asserts condition {
  if (!condition) throw new RangeError(`the qcow2 image is damaged: ${problem}`);
}
