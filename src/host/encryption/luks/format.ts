import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { LUKS1_HEADER_BYTES, LUKS1_PAYLOAD_OFFSET_SECTORS } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { scratchFolder } from '#host/scratch.ts';

/** The fewest iterations the format allows: a passphrase of 256 random bits gains nothing from more. */
const ITERATIONS = 1000;
const TIMEOUT_MS = 60_000;

/**
 * Makes a LUKS1 header that `key` opens, with a volume key of its own, and returns its bytes, none of them secret
 * without the key. It was opened with the key once before it is returned.
 *
 * `cryptsetup` does it on a file in memory-backed storage, because it is a hundred times faster than QEMU here and needs
 * no block device; the layout is QEMU's (see LUKS1_PAYLOAD_OFFSET_SECTORS).
 * *Throws* program-missing, program-failed.
 */
export async function makeLuks1Header(key: Secret, runDirectory: HostPath, doing: string): Promise<Buffer> {
  await using folder = await scratchFolder(runDirectory);
  const path = join(folder.path, 'header');
  await allocate(path, LUKS1_HEADER_BYTES);
  await run('cryptsetup', [...formatArguments(), path], { doing, stdin: key, timeoutMs: TIMEOUT_MS });
  await run('cryptsetup', ['open', '--type', 'luks1', '--test-passphrase', '--key-file=-', path], {
    doing,
    stdin: key,
    timeoutMs: TIMEOUT_MS,
  });
  return await readFile(path);
}

/** `--key-size` counts both halves of the XTS key: 512 is AES-256-XTS. */
function formatArguments(): string[] {
  const layout = ['--type', 'luks1', '--offset', String(LUKS1_PAYLOAD_OFFSET_SECTORS)];
  const cipher = ['--cipher', 'aes-xts-plain64', '--key-size', '512', '--hash', 'sha256'];
  return ['luksFormat', '-q', ...layout, ...cipher, '--pbkdf-force-iterations', String(ITERATIONS), '--key-file=-'];
}

async function allocate(path: string, bytes: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
}
