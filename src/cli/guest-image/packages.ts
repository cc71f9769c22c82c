import { createHash } from 'node:crypto';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import { failure, type Outcome, run } from '#host/exec.ts';

const DOING = 'Building the guest image';
const KERNEL = 'linux-image-cloud-amd64';
const LISTS = '/var/lib/apt/lists';
const BUSYBOX = 'busybox-static';

/** A Debian package at the version apt would install. */
export type DebianPackage = { readonly name: string; readonly version: string };

/** The packages a guest image is made of. `linux-image-cloud-amd64` only names the kernel; this is the real one. */
export type GuestPackages = { readonly kernel: DebianPackage; readonly busybox: DebianPackage };

/**
 * What apt offers now, from its lists on this machine, without network.
 *
 * @throws package-unknown when apt's lists are missing.
 */
export async function findPackages(): Promise<GuestPackages> {
  // apt-cache ends with 100 when it knows one of them not at all; it still shows the others.
  const { stdout } = await run('apt-cache', ['show', '--no-all-versions', KERNEL, BUSYBOX], {
    doing: DOING,
    tolerate: [100],
  });
  const records = stdout.split('\n\n');
  const kernel = findRecord(records, KERNEL);
  const name = /linux-image-\d[^\s,(|]*/.exec(field(kernel, 'Depends'))?.[0];
  if (name === undefined) throw new NightlatchError('package-unknown', { doing: DOING, package: KERNEL });
  return {
    kernel: { name, version: field(kernel, 'Version') },
    busybox: { name: BUSYBOX, version: field(findRecord(records, BUSYBOX), 'Version') },
  };
}

/** Changes when apt's package lists change, and so when `findPackages` may answer otherwise. */
export async function fingerprintLists(): Promise<string> {
  const hash = createHash('sha256');
  const names = await readdir(LISTS).catch(() => []);
  for (const name of names.toSorted()) {
    const { size, mtimeMs } = await stat(join(LISTS, name));
    hash.update(`${name} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex').slice(0, 16);
}

/** Downloads a package and unpacks it into the new folder `into`. Nothing is installed on this machine. */
export async function unpackPackage(wanted: DebianPackage, into: string): Promise<void> {
  const downloads = `${into}.download`;
  await mkdir(downloads, { recursive: true });
  // As root, apt downloads as the user _apt, who cannot write here, and warns; it is told to stay who it is.
  const doing = `Downloading the Debian package ${wanted.name}`;
  const args = ['-q', '-o', 'APT::Sandbox::User=root', 'download', `${wanted.name}=${wanted.version}`];
  const outcome = await run('apt-get', args, { doing, cwd: downloads, tolerate: [100] });
  if (outcome.code !== 0) throw downloadFailure(wanted, doing, outcome);
  for (const file of await readdir(downloads)) {
    await run('dpkg-deb', ['-x', join(downloads, file), into], {
      doing: `Unpacking the Debian package ${wanted.name}`,
    });
  }
}

/** Debian's mirrors drop a version when the next one is there, so lists that are too old lead to nothing (404). */
function downloadFailure(wanted: DebianPackage, doing: string, outcome: Outcome): NightlatchError {
  if (!/ 404 /.test(outcome.stderr)) return failure('apt-get', doing, outcome);
  return new NightlatchError('package-unknown', {
    doing: DOING,
    package: `${wanted.name} (a version of it that is still offered)`,
  });
}

function findRecord(records: readonly string[], name: string): string {
  const record = records.find((text) => field(text, 'Package') === name);
  if (record === undefined) throw new NightlatchError('package-unknown', { doing: DOING, package: name });
  return record;
}

function field(record: string, name: string): string {
  return new RegExp(`^${name}: (.*)$`, 'm').exec(record)?.[1] ?? '';
}
