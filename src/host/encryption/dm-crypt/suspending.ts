import { hash } from 'node:crypto';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { allocateKey, Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import type { Mappings } from './mappings.ts';
import type { PlainParameters } from './plain.ts';
import { parseCryptTable } from './table.ts';

const TIMEOUT_MS = 60_000;
/** cryptsetup(8): no passphrase fits. */
const WRONG_KEY = 2;
const HEX = Buffer.from('0123456789abcdef', 'latin1');

/** `Encryptor.suspend` of everything that dm-crypt decrypts. */
export function suspendMapping(mappings: Mappings, disk: DiskSpec): Promise<void> {
  return mappings.suspend(mappings.nameOf(disk), `Wiping the key of disk ${disk.id}`);
}

/** `Encryptor.resume` of a disk with a header, by which cryptsetup knows whether the key is the right one. */
export async function resumeLuks(mappings: Mappings, disk: DiskSpec, key: Secret): Promise<void> {
  const doing = `Putting back the key of disk ${disk.id}`;
  const name = mappings.nameOf(disk);
  if (!(await mappings.find(name))?.isSuspended) return;
  const args = ['luksResume', '--key-file=-', name];
  const { code } = await run('cryptsetup', args, { doing, stdin: key, tolerate: [WRONG_KEY], timeoutMs: TIMEOUT_MS });
  if (code === WRONG_KEY) throw new NightlatchError('disk-wrong-key', { disk: disk.id });
}

/** `Encryptor.resume` of a disk without one. cryptsetup has no verb for that: the table is loaded anew, by stdin. */
export async function resumePlain(
  mappings: Mappings,
  disk: DiskSpec,
  parameters: PlainParameters,
  key: Secret,
): Promise<void> {
  const doing = `Putting back the key of disk ${disk.id}`;
  const name = mappings.nameOf(disk);
  if (!(await mappings.find(name))?.isSuspended) return;
  const line = await mappings.tableLine(name, doing);
  if (parseCryptTable(line)?.cipher !== parameters.cipher) {
    const reason = `its table is ${line.trim()}`;
    throw new NightlatchError('mapping-unexpected', { disk: disk.id, mapping: name, reason });
  }
  using cipherKey = plainKey(parameters, key);
  using table = withKey(line, cipherKey);
  await mappings.replaceTable(name, table, doing);
}

/** The key that cryptsetup makes of a passphrase read from stdin. See its `crypt_plain_hash`, for one round. */
function plainKey({ hash: algorithm, keyBits }: PlainParameters, passphrase: Secret): Secret {
  const digest = passphrase.use((bytes) => hash(algorithm, bytes, 'buffer'));
  try {
    const length = keyBits / 8;
    if (digest.length < length) throw new Error(`${algorithm} makes no key of ${keyBits} bits in one round`);
    const key = allocateKey(length);
    digest.copy(key, 0, 0, length);
    return Secret.adopt(key);
  } finally {
    digest.fill(0);
  }
}

/** A crypt target's line with this key in hexadecimal digits, the fifth of its words. */
function withKey(line: string, key: Secret): Secret {
  const words = line.trim().split(' ');
  const before = Buffer.from(`${words.slice(0, 4).join(' ')} `, 'latin1');
  const after = Buffer.from(` ${words.slice(5).join(' ')}\n`, 'latin1');
  return key.use((bytes) => {
    const text = allocateKey(before.length + 2 * bytes.length + after.length);
    let at = before.copy(text);
    for (const byte of bytes) {
      text[at++] = HEX[byte >> 4] as number;
      text[at++] = HEX[byte & 15] as number;
    }
    after.copy(text, at);
    return Secret.adopt(text);
  });
}
