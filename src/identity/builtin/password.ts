import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { NightlatchError } from '#core/errors.ts';
import { Limiter } from '#identity/builtin/limiter.ts';

/** A stored password: the scrypt parameters and salt it was made with, and the result. */
export type PasswordHash = {
  /** Base-2 logarithm of scrypt's cost N. */
  readonly logN: number;
  readonly r: number;
  readonly p: number;
  readonly salt: Buffer;
  readonly key: Buffer;
};

/** 32 MiB and about a fifth of a second. See OWASP Password Storage Cheat Sheet, scrypt. */
const COST = { logN: 15, r: 8, p: 3 } as const;
const MAX_LOG_N = 20;
const MAX_R_TIMES_P = 1024;
const SALT_BYTES = 16;
const KEY_BYTES = 32;
const PARALLEL = 2;
const WAITING = 64;

const limiter = new Limiter(PARALLEL, WAITING, () => {
  return new NightlatchError('service-unavailable', {
    reason: 'Checking a password failed: too many are being checked. Try again in a few seconds.',
  });
});
const deriveKey = promisify<Buffer, Buffer, number, ScryptOptions, Buffer>(scrypt);

/** What is stored of a password, with a fresh salt: `$scrypt$ln=15,r=8,p=3$SALT$KEY`, base64 without padding. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  return encodePasswordHash({ ...COST, salt, key: await derive(password, { ...COST, salt }) });
}

/**
 * Whether the password is the stored one. Without a stored one (no such user) it does the same work and says no, so
 * that the time taken does not tell which names exist.
 */
export async function verifyPassword(password: string, stored: string | null): Promise<boolean> {
  const hash = stored === null ? null : decodePasswordHash(stored);
  const parameters = hash ?? { ...COST, salt: Buffer.alloc(SALT_BYTES) };
  const key = await derive(password, parameters);
  return hash !== null && hash.key.length === key.length && timingSafeEqual(hash.key, key);
}

/** The text form of a stored password. See the PHC string format, and passlib's `scrypt`. */
export function encodePasswordHash({ logN, r, p, salt, key }: PasswordHash): string {
  return `$scrypt$ln=${logN},r=${r},p=${p}$${toBase64(salt)}$${toBase64(key)}`;
}

const FORMAT = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$/;

/** Reads the text form. Null: it is none, or its cost is beyond what we ever store. */
export function decodePasswordHash(text: string): PasswordHash | null {
  const match = FORMAT.exec(text);
  if (!match) return null;
  const [logN, r, p] = [Number(match[1]), Number(match[2]), Number(match[3])];
  if (logN < 1 || logN > MAX_LOG_N || r < 1 || p < 1 || r * p > MAX_R_TIMES_P) return null;
  return { logN, r, p, salt: Buffer.from(match[4] ?? '', 'base64'), key: Buffer.from(match[5] ?? '', 'base64') };
}

function derive(password: string, { logN, r, p, salt }: Omit<PasswordHash, 'key'>): Promise<Buffer> {
  const N = 2 ** logN;
  // Unicode spells one password in several ways; NFKC makes them one. See RFC 8265 section 4.2.
  const bytes = Buffer.from(password.normalize('NFKC'), 'utf8');
  return limiter.run(() => deriveKey(bytes, salt, KEY_BYTES, { N, r, p, maxmem: 129 * N * r * p + 1024 * 1024 }));
}

function toBase64(bytes: Buffer): string {
  return bytes.toString('base64').replace(/=+$/, '');
}
