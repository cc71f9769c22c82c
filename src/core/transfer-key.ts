import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

const derive = promisify(scrypt) as (password: string, salt: Buffer, bytes: number) => Promise<Buffer>;
const HASH_BYTES = 32;

/** What the giver of a volume is shown once, and what is kept to know it by. */
export type TransferKey = { readonly authKey: string; readonly salt: string; readonly authHash: string };

/** A key that whoever is to have a volume must know: 16 hexadecimal digits, as Cinder's. */
export async function makeTransferKey(): Promise<TransferKey> {
  const authKey = randomBytes(8).toString('hex');
  const salt = randomBytes(16);
  return { authKey, salt: salt.toString('hex'), authHash: (await derive(authKey, salt, HASH_BYTES)).toString('hex') };
}

/** Whether somebody knows the key. */
export async function isTransferKey(asked: string, kept: Pick<TransferKey, 'salt' | 'authHash'>): Promise<boolean> {
  const hash = await derive(asked, Buffer.from(kept.salt, 'hex'), HASH_BYTES);
  return timingSafeEqual(hash, Buffer.from(kept.authHash, 'hex'));
}
