/** What a qcow2 file says of itself in its first bytes. See QEMU docs/interop/qcow2.txt, "Header". */
export type Qcow2Header = {
  readonly version: 2 | 3;
  /** Not 0: it names a file it is based on. */
  readonly backingFileOffset: bigint;
  readonly virtualSizeBytes: bigint;
  /** 0: not encrypted. */
  readonly cryptMethod: number;
  /** Bits; see `incompatible`. */
  readonly incompatibleFeatures: bigint;
};

/** Bits of `incompatibleFeatures` that concern us. */
export const incompatible = { corrupt: 1n << 1n, externalData: 1n << 2n } as const;

export const QCOW2_HEADER_BYTES = 104;
const QCOW2_MAGIC = 0x514649fb;
const V2_HEADER_BYTES = 72;

/** Reads the header. Null: this is not the start of a qcow2 file of version 2 or 3. */
export function readQcow2Header(bytes: Buffer): Qcow2Header | null {
  if (bytes.length < V2_HEADER_BYTES || bytes.readUInt32BE(0) !== QCOW2_MAGIC) return null;
  const version = bytes.readUInt32BE(4);
  if (version !== 2 && version !== 3) return null;
  if (version === 3 && bytes.length < QCOW2_HEADER_BYTES) return null;
  return {
    version,
    backingFileOffset: bytes.readBigUInt64BE(8),
    virtualSizeBytes: bytes.readBigUInt64BE(24),
    cryptMethod: bytes.readUInt32BE(32),
    incompatibleFeatures: version === 3 ? bytes.readBigUInt64BE(72) : 0n,
  };
}
