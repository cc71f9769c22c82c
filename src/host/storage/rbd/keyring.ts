import { readFile } from 'node:fs/promises';
import { NightlatchError } from '#core/errors.ts';
import { allocateKey, Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import { hasCode } from '#host/files.ts';
import type { Pool } from '#host/storage/rbd/images.ts';

const DIGITS = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 'latin1');
const LINE_END = 0x0a;

/**
 * The cephx key of a cluster's user, from the keyring that the cluster's configuration names: never as text.
 *
 * *See* Ceph's documentation, "Keyring Management". *Throws* cluster-key-missing; program-missing.
 */
export async function readClusterKey({ conf, user }: Pick<Pool, 'conf' | 'user'>): Promise<Secret> {
  const name = `client.${user}`;
  const doing = `Looking for the keyring of ${name}`;
  const { stdout } = await run('ceph-conf', ['--conf', conf, '--name', name, '--lookup', 'keyring'], { doing });
  const files = stdout.trim().split(',');
  for (const file of files) {
    const keyring = await readFile(file).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT', 'EACCES')) return Buffer.alloc(0);
      throw error;
    });
    const key = keyIn(keyring, name);
    keyring.fill(0);
    if (key !== null) return key;
  }
  throw new NightlatchError('cluster-key-missing', { name, files: files.join(', ') });
}

/** The key of the section of that name; null: there is none. */
function keyIn(keyring: Buffer, name: string): Secret | null {
  const start = keyring.indexOf(`[${name}]`);
  if (start < 0) return null;
  for (let at = keyring.indexOf(LINE_END, start) + 1; at > 0; at = keyring.indexOf(LINE_END, at) + 1) {
    const end = keyring.indexOf(LINE_END, at);
    const line = keyring.subarray(at, end < 0 ? keyring.length : end);
    if (line.indexOf('[') === 0) return null;
    // The only part of the line that becomes text is what stands before the key.
    const equals = line.indexOf('=');
    if (equals > 0 && line.toString('latin1', 0, equals).trim() === 'key') return decode(line.subarray(equals + 1));
  }
  return null;
}

/** Base64 (RFC 4648, section 4) without a string, which could not be overwritten. Whatever is no digit is passed over. */
function decode(encoded: Buffer): Secret {
  const digits = encoded.filter((byte) => DIGITS.includes(byte)).length;
  const key = allocateKey(Math.floor((digits * 6) / 8));
  let bits = 0;
  let held = 0;
  let at = 0;
  for (const byte of encoded) {
    const digit = DIGITS.indexOf(byte);
    if (digit < 0) continue;
    held = ((held << 6) | digit) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    key[at++] = (held >> bits) & 0xff;
  }
  return Secret.adopt(key);
}
