import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { FileFormat } from '#core/disk.ts';
import { describeError } from '#core/errors.ts';
import type { Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import { keyPipe } from '#host/key-pipe.ts';
import type { RbdImage } from '#host/storage/storage-driver.ts';
import { timed } from './comparison.ts';

const SECRET = ['--object', 'secret,id=key,file=/dev/fd/3'];
const ATTEMPTS = 20;
const OPTIONS: Readonly<Record<FileFormat, { format: string; options: string }>> = {
  raw: { format: 'luks', options: 'key-secret=key,cipher-alg=aes-256,cipher-mode=xts' },
  qcow2: {
    format: 'qcow2',
    options: 'encrypt.format=luks,encrypt.key-secret=key,encrypt.cipher-alg=aes-256,encrypt.cipher-mode=xts',
  },
};

/**
 * Creates an encrypted disk as `qemu-img create` does when nothing else is asked of it; returns the time of the attempt
 * that succeeded, in milliseconds: see `whateverTheClock`.
 */
export async function createStock(path: string, storage: FileFormat, sizeBytes: number, key: Secret): Promise<number> {
  const { format, options } = OPTIONS[storage];
  const args = ['create', '-q', '-f', format, ...SECRET, '-o', options, path, String(sizeBytes)];
  return await whateverTheClock(() => timed(() => run('qemu-img', args, { doing: 'Creating a stock disk', fd3: key })));
}

/** `cryptsetup luksChangeKey` when nothing else is asked of it. */
export async function changeStockKey(path: string, from: Secret, to: Secret): Promise<void> {
  const next = keyPipe(to);
  try {
    const args = ['luksChangeKey', '-q', '--key-file=-', path, '/dev/fd/3'];
    const child = spawn('cryptsetup', args, { stdio: ['pipe', 'ignore', 'inherit', next] });
    const ended = once(child, 'close');
    from.use((bytes) => child.stdin?.end(Buffer.from(bytes)));
    const [code] = await ended;
    if (code !== 0) throw new Error(`cryptsetup luksChangeKey ended with ${code}`);
  } finally {
    closeSync(next);
  }
}

/** `qemu-img amend` when nothing else is asked of it: another key slot is filled, and the first one emptied. */
export async function amendStockKey({ pool, image, conf, user }: RbdImage, from: Secret, to: Secret): Promise<void> {
  const place = `file.driver=rbd,file.pool=${pool},file.image=${image},file.conf=${conf},file.user=${user}`;
  await amend(`driver=luks,key-secret=from,${place}`, 'state=active,new-secret=to', from, to);
  await amend(`driver=luks,key-secret=to,${place}`, 'state=inactive,old-secret=from', from, to);
}

async function amend(image: string, options: string, from: Secret, to: Secret): Promise<void> {
  const secrets = ['from', 'to'].flatMap((id, i) => ['--object', `secret,id=${id},file=/dev/fd/${3 + i}`]);
  await whateverTheClock(async () => {
    const fds = [keyPipe(from), keyPipe(to)];
    try {
      const args = ['amend', ...secrets, '--image-opts', '-o', options, image];
      const child = spawn('qemu-img', args, { stdio: ['ignore', 'ignore', 'pipe', ...fds] });
      const [said, [code]] = await Promise.all([text(child.stderr as Readable), once(child, 'close')]);
      if (code !== 0) throw new Error(`qemu-img amend ended with ${code}: ${said}`);
    } finally {
      for (const fd of fds) closeSync(fd);
    }
  });
}

/** QEMU gives up at random where CPU time counts in ticks ("Unable to get accurate CPU usage"); then once more. */
async function whateverTheClock<T>(attempt: () => Promise<T>): Promise<T> {
  for (let count = 1; ; count++) {
    try {
      return await attempt();
    } catch (error) {
      if (!/accurate CPU usage/.test(describeError(error)) || count === ATTEMPTS) throw error;
      await delay(count * 10);
    }
  }
}

/** Lets QEMU open a disk and read its first 4 KiB; `key` null: the disk is not encrypted. */
export async function openByQemu(path: string, storage: FileFormat, key: Secret | null): Promise<void> {
  const image = JSON.stringify(nodeOf(path, storage, key !== null));
  const secret = key === null ? [] : SECRET;
  const outcome = await run('qemu-io', [...secret, '-r', '-c', 'read 0 4k', `json:${image}`], {
    doing: `Opening ${path}`,
    ...(key === null ? {} : { fd3: key }),
  });
  if (!outcome.stdout.includes('read 4096/4096')) throw new Error(`qemu-io did not read: ${outcome.stdout}`);
}

function nodeOf(path: string, storage: FileFormat, encrypted: boolean): object {
  const file = { driver: 'file', filename: path };
  if (storage === 'qcow2') return { driver: 'qcow2', file, ...(encrypted ? { 'encrypt.key-secret': 'key' } : {}) };
  return encrypted ? { driver: 'luks', file, 'key-secret': 'key' } : { driver: 'raw', file };
}
