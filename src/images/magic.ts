type Magic = { readonly format: string; readonly offset: number; readonly bytes: Buffer };

const at = (format: string, offset: number, bytes: string): Magic => ({
  format,
  offset,
  bytes: Buffer.from(bytes, 'latin1'),
});

/**
 * Starts of formats that QEMU would take a "raw" disk for if it were ever asked to guess. Several of them can name
 * other files on the host, which is why a raw image may not start so.
 */
const magics: readonly Magic[] = [
  at('qcow', 0, 'QFI\xfb'),
  at('QED', 0, 'QED\0'),
  at('VMDK', 0, 'KDMV'),
  at('VMDK', 0, 'COWD'),
  at('VMDK', 0, '# Disk DescriptorFile'),
  at('VDI', 0x40, '\x7f\x10\xda\xbe'),
  at('VHDX', 0, 'vhdxfile'),
  at('VHD', 0, 'conectix'),
  at('LUKS', 0, 'LUKS\xba\xbe'),
  at('Parallels', 0, 'WithoutFreeSpace'),
  at('Parallels', 0, 'WithouFreSpacExt'),
  at('Bochs', 0, 'Bochs Virtual HD Image'),
  at('cloop', 0, '#!/bin/sh\n#V2.0 Format\n'),
];

const ISO_9660 = at('ISO 9660', 0x8001, 'CD001');
/** Bytes of a file's start that are needed to tell. */
export const MAGIC_BYTES = ISO_9660.offset + ISO_9660.bytes.length;

/** The format, other than raw, that these first bytes are of; null when of none we know. */
export function foreignFormat(start: Buffer): string | null {
  return magics.find((magic) => matches(magic, start))?.format ?? null;
}

/** Whether a file that starts so has an ISO 9660 volume descriptor (ECMA-119 section 8.1). */
export function isIso9660(start: Buffer): boolean {
  return matches(ISO_9660, start);
}

function matches({ offset, bytes }: Magic, start: Buffer): boolean {
  return start.subarray(offset, offset + bytes.length).equals(bytes);
}
