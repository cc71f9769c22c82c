import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { describeError } from '#core/errors.ts';
import { readUpTo } from '#host/files.ts';
import type { RbdImage } from '#host/storage/storage-driver.ts';

/** What an encrypted disk lies in: a file that is LUKS, or qcow2 with LUKS inside, a logical volume, or an image in a pool. */
export type EncryptedMedium = {
  readonly path: string;
  readonly format: StorageFormat;
  /** The image that it is, of which `path` is a copy of the first bytes. */
  readonly rbd?: RbdImage;
  /** When absent, LUKS of either version. */
  readonly encryption?: EncryptionFormat;
};

const HEADER_BYTES = 4 * 1024 * 1024;
/** How a disk without a header is opened; a volume is a whole number of large sectors. See docs/operations.md. */
const PLAIN = ['--type', 'plain', '--cipher', 'aes-xts-plain64', '--key-size', '512', '--hash', 'sha512'];
const LARGE_SECTORS = ['--sector-size', '4096'];

/** Whether this passphrase opens an encrypted disk. @throws when nothing but its data could tell: it has no header. */
export function opensMedium(passphrase: Uint8Array, medium: EncryptedMedium): boolean {
  if (medium.encryption === 'plain') throw new Error('every key opens a plain disk: look what it holds');
  return medium.format === 'qcow2' ? opensQcow2(passphrase, medium.path) : opensHeader(passphrase, medium.path);
}

/** Whether this passphrase opens a LUKS disk that starts with its header. */
function opensHeader(passphrase: Uint8Array, path: string): boolean {
  const test = ['open', '--test-passphrase', '--key-file=-', path];
  const { status, stderr } = spawnSync('cryptsetup', test, { input: passphrase, encoding: 'utf8' });
  if (status === 0) return true;
  // cryptsetup(8): no permission, that is a wrong passphrase.
  if (status === 2) return false;
  throw new Error(`cryptsetup ended with ${status}: ${stderr}`);
}

function opensQcow2(passphrase: Uint8Array, path: string): boolean {
  try {
    inClear(passphrase, { path, format: 'qcow2' }, 'length');
    return true;
  } catch (error) {
    if (/Invalid password/.test(describeError(error))) return false;
    throw error;
  }
}

/** Runs one command of qemu-io on what a disk holds in clear; returns what it prints. No passphrase: it is not encrypted. */
export function inClear(passphrase: Uint8Array | null, medium: EncryptedMedium, command: string): string {
  if (passphrase === null)
    return told('qemu-io', [...reading(command), '-c', command, `json:${JSON.stringify(clearNode(medium))}`]);
  return medium.format === 'lvm' ? byKernel(passphrase, medium, command) : byQemu(passphrase, medium, command);
}

function byQemu(passphrase: Uint8Array, medium: EncryptedMedium, command: string): string {
  const file = fileNode(medium);
  const node =
    medium.format === 'qcow2'
      ? { driver: 'qcow2', encrypt: { format: 'luks', 'key-secret': 'key' }, file }
      : { driver: 'luks', 'key-secret': 'key', file };
  // QEMU opens a pipe by that name, and not the socket that a child of Node has there.
  // What is only read may be open in a guest.
  const sharing = isWrite(command) ? [] : ['--read-only', '--force-share'];
  const shell = ['-c', 'cat | exec qemu-io "$@"', 'sh', ...sharing, '-c', command];
  const secret = ['--object', 'secret,id=key,file=/dev/stdin'];
  return told('sh', [...shell, ...secret, `json:${JSON.stringify(node)}`], passphrase);
}

/** Any format, as long as nobody else has the disk open; a mapping of a name of its own is there meanwhile. */
function byKernel(passphrase: Uint8Array, { path, encryption }: EncryptedMedium, command: string): string {
  const name = `test-${randomUUID()}`;
  const format = encryption === 'plain' ? [...PLAIN, ...LARGE_SECTORS] : ['--type', 'luks'];
  const sharing = isWrite(command) ? [] : ['--readonly'];
  told('cryptsetup', ['open', ...format, ...sharing, '--key-file=-', path, name], passphrase);
  try {
    return told('qemu-io', [...reading(command), '-f', 'raw', '-c', command, `/dev/mapper/${name}`]);
  } finally {
    told('cryptsetup', ['close', name]);
  }
}

function isWrite(command: string): boolean {
  return command.startsWith('write');
}

function reading(command: string): string[] {
  return isWrite(command) ? [] : ['--read-only'];
}

function clearNode(medium: EncryptedMedium): object {
  return { driver: medium.format === 'qcow2' ? 'qcow2' : 'raw', file: fileNode(medium) };
}

function fileNode({ path, format, rbd }: EncryptedMedium): object {
  if (rbd) return { driver: 'rbd', ...rbd };
  return { driver: format === 'lvm' ? 'host_device' : 'file', filename: path };
}

/** Copies the first bytes of an image in a pool to a file. */
export function copyStart(rbd: RbdImage, path: string): void {
  const from = `json:${JSON.stringify({ driver: 'raw', file: { driver: 'rbd', ...rbd } })}`;
  told('qemu-img', ['dd', '-f', 'raw', '-O', 'raw', 'bs=4M', 'count=9', `if=${from}`, `of=${path}`]);
}

/** What a program printed. @throws when it failed, other than by what it read being something else. */
function told(program: string, args: readonly string[], input: Uint8Array | '' = ''): string {
  const { status, stderr, stdout } = spawnSync(program, args, { input, encoding: 'utf8' });
  if (status === 0 || /verification failed/.test(stdout)) return stdout;
  throw new Error(`${program} ended with ${status}: ${stderr}${stdout}`);
}

/** The first bytes of a medium, header included. */
export async function startOf(path: string, bytes = HEADER_BYTES): Promise<Buffer> {
  await using file = await open(path, 'r');
  return await readUpTo(file, bytes, 0);
}
