/** As small as file systems and clusters keep track of. */
const CHUNK = 64 * 1024;
const ZEROS = Buffer.alloc(CHUNK);

/** A part of some bytes, and where it stands among them. */
export type Run = { readonly at: number; readonly bytes: Buffer };

/** The parts of some bytes that must be written where all is zero: chunks of zeros are left out. */
export function* writtenRuns(bytes: Buffer): Iterable<Run> {
  let start = 0;
  for (let at = 0; at < bytes.length; at += CHUNK) {
    const chunk = bytes.subarray(at, at + CHUNK);
    if (!chunk.equals(ZEROS.subarray(0, chunk.length))) continue;
    if (at > start) yield { at: start, bytes: bytes.subarray(start, at) };
    start = at + chunk.length;
  }
  if (bytes.length > start) yield { at: start, bytes: bytes.subarray(start) };
}
