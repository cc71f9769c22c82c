import { access, open, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import { hasCode, removeFile, syncFolder } from '#host/files.ts';

const NAME = 'luks-skeleton.qcow2';
const ATTEMPTS = 8;
const ATTEMPT_TIMEOUT_MS = 120_000;

/**
 * The passphrase of the skeleton, public because it protects nothing: no byte is ever written under it. QEMU refuses to
 * resize or re-base an encrypted image without its passphrase, and a copy's header is overwritten before it is a disk.
 */
export function skeletonPassphrase(): Secret {
  return Secret.adopt(Buffer.from('skeleton', 'latin1'));
}

const skeletons = new Map<HostPath, Skeleton>();

/**
 * The empty encrypted qcow2 image that every encrypted disk of a host starts as a copy of.
 *
 * One is enough, because all that makes a disk its own lies in the header that is replaced; and it is worth keeping,
 * because `qemu-img create` spends seconds measuring how slow a passphrase could be made to try.
 */
export class Skeleton {
  readonly #path: HostPath;
  #ready: Promise<HostPath> | null = null;

  private constructor(path: HostPath) {
    this.#path = path;
  }

  /** The one of a cache directory: drivers that make disks in several places wait for each other. */
  static in(cacheDirectory: HostPath): Skeleton {
    const path = join(cacheDirectory, NAME) as HostPath;
    const known = skeletons.get(path) ?? new Skeleton(path);
    skeletons.set(path, known);
    return known;
  }

  /** Its path; the first caller ever makes it, others wait. *Throws* program-missing, program-failed, disk-full. */
  path(): Promise<HostPath> {
    this.#ready ??= ensure(this.#path).catch((error: unknown) => {
      this.#ready = null;
      throw error;
    });
    return this.#ready;
  }
}

/** Made under another name, so that a crash leaves nothing that looks ready; the next try overwrites it. */
async function ensure(path: HostPath): Promise<HostPath> {
  if (await exists(path)) return path;
  const unfinished = `${path}.new`;
  try {
    await make(unfinished);
    await using file = await open(unfinished, 'r');
    await file.sync();
    await rename(unfinished, path);
    await syncFolder(dirname(path));
    return path;
  } catch (error) {
    await removeFile(unfinished);
    throw error;
  }
}

/**
 * QEMU measures by the CPU time of a thread and gives up at random where that counts in ticks of 4 ms ("Unable to get
 * accurate CPU usage", kernels with CONFIG_TICK_CPU_ACCOUNTING). It fails within milliseconds, and another try may work.
 */
async function make(path: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await makeOnce(path);
    } catch (error) {
      const isByChance = error instanceof NightlatchError && /accurate CPU usage/.test(String(error.details.stderr));
      if (!isByChance || attempt === ATTEMPTS) throw error;
      await delay(attempt * 20);
    }
  }
}

async function makeOnce(path: string): Promise<void> {
  using passphrase = skeletonPassphrase();
  const encryption = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.cipher-alg=aes-256,encrypt.cipher-mode=xts';
  const secret = ['--object', 'secret,id=key,file=/dev/fd/3'];
  await run(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', ...secret, '-o', `${encryption},encrypt.iter-time=10`, path, '512'],
    {
      doing: 'Preparing the skeleton of encrypted qcow2 disks',
      fd3: passphrase,
      timeoutMs: ATTEMPT_TIMEOUT_MS,
    },
  );
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    (error: unknown) => {
      if (hasCode(error, 'ENOENT')) return false;
      throw error;
    },
  );
}
