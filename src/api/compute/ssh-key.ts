import { generateKeyPair } from 'node:crypto';
import { promisify } from 'node:util';
import sshpk from 'sshpk';
import { badRequest } from '#core/errors.ts';

/** A public key as clients and guests know it: the line of an `authorized_keys` file, and its MD5 in hexadecimal pairs. */
export type SshPublicKey = { readonly line: string; readonly fingerprint: string };

/** As Nova makes them. */
const RSA_BITS = 2048;
const generate = promisify(generateKeyPair);

/** @throws bad-request (400) for what is no public key of OpenSSH. */
export function readSshPublicKey(line: string): SshPublicKey {
  const trimmed = line.trim();
  try {
    // Its reader of lines takes more than one; authorized_keys(5) has one a line.
    if (/[\r\n]/.test(trimmed)) throw new Error('it has more than one line');
    const key = sshpk.parseKey(trimmed, 'ssh');
    return { line: trimmed, fingerprint: fingerprintOf(key) };
  } catch {
    throw badRequest('Keypair data is invalid: failed to generate fingerprint');
  }
}

/** A new pair; the private half, PEM of PKCS #1, is kept nowhere: only who asked for it gets it, once. */
export async function makeSshKeyPair(comment: string): Promise<SshPublicKey & { readonly privateKey: string }> {
  const { publicKey, privateKey } = await generate('rsa', {
    modulusLength: RSA_BITS,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
  });
  const key = sshpk.parseKey(publicKey, 'pem');
  key.comment = comment;
  return { line: key.toString('ssh'), fingerprint: fingerprintOf(key), privateKey };
}

function fingerprintOf(key: sshpk.Key): string {
  return key.fingerprint('md5').toString('hex');
}
