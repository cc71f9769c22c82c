import { mkdir, mkdtemp, readdir, realpath, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { writeDisk } from './disk-layout.ts';
import { gatherBootFiles, hashSources, layOutRoot } from './guest-files.ts';
import { findPackages, fingerprintLists, type GuestPackages, unpackPackage } from './packages.ts';

export type GuestImageOptions = {
  /** Where finished images are kept; made when missing. */
  readonly cacheDirectory: string;
  /** Told what is being done, a line each time; not called when the image is already there. */
  readonly progress?: (line: string) => void;
};

export type GuestImage = { readonly path: string; readonly sizeBytes: number };

const UNFINISHED = '.building-';
const CURRENT = '.current-';

/**
 * A real bootable disk image, raw, for x86 machines with a BIOS: partition table, boot loader, Debian's cloud kernel and
 * an ext4 root file system with busybox. The guest does with a config drive what cloud-init does on a cloud image, as
 * far as `guest/boot.sh` says, and prints `nightlatch-guest: ready` on its serial console at the end of every boot.
 *
 * Made of Debian packages that are downloaded by apt and not installed. *Repeat*: the image is built once for given
 * package versions and sources. *Crash*: leaves an unfinished folder in the cache directory, which the next build
 * removes; a file with a final name is always whole. *Throws* package-unknown when apt's lists are missing;
 * program-missing, with the Debian package to install.
 */
export async function buildGuestImage(options: GuestImageOptions): Promise<GuestImage> {
  await mkdir(options.cacheDirectory, { recursive: true });
  const sources = await hashSources();
  const shortcut = join(options.cacheDirectory, `${CURRENT}${await fingerprintLists()}-${sources}`);
  const known = await realpath(shortcut).catch(() => null);
  const path = known ?? (await buildFromPackages(options, sources));
  if (known === null) await point(shortcut, path);
  return { path, sizeBytes: (await stat(path)).size };
}

async function buildFromPackages(options: GuestImageOptions, sources: string): Promise<string> {
  const packages = await findPackages();
  const path = join(options.cacheDirectory, imageName(packages, sources));
  if (!(await exists(path))) await build(path, packages, options);
  return path;
}

/** Asking apt takes half a second; a link named after the state of apt's lists says which image its answer led to. */
async function point(shortcut: string, path: string): Promise<void> {
  const folder = dirname(path);
  for (const name of await readdir(folder)) if (name.startsWith(CURRENT)) await rm(join(folder, name), { force: true });
  await symlink(basename(path), shortcut).catch((error: NodeJS.ErrnoException) => {
    // Another build at the same time has made it.
    if (error.code !== 'EEXIST') throw error;
  });
}

async function build(path: string, packages: GuestPackages, options: GuestImageOptions): Promise<void> {
  const progress = options.progress ?? (() => {});
  await removeUnfinished(options.cacheDirectory);
  const folder = await mkdtemp(join(options.cacheDirectory, `${UNFINISHED}${process.pid}-`));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(folder, { recursive: true, force: true }));

  const unpacked = { kernel: join(folder, 'kernel'), busybox: join(folder, 'busybox') };
  progress(`downloading ${packages.kernel.name} and ${packages.busybox.name} from Debian`);
  await unpackPackage(packages.busybox, unpacked.busybox);
  await unpackPackage(packages.kernel, unpacked.kernel);
  progress('laying out the boot files and the root file system');
  const bootFiles = await gatherBootFiles(unpacked, join(folder, 'boot'));
  await layOutRoot(unpacked, join(folder, 'root'));
  progress('writing the disk image');
  const disk = join(folder, 'disk.raw');
  await writeDisk(disk, { bootFiles, rootFolder: join(folder, 'root') });
  await rename(disk, path);
}

function imageName(packages: GuestPackages, sources: string): string {
  const versions = `${packages.kernel.name}-${packages.kernel.version}-busybox-${packages.busybox.version}`;
  return `guest-${versions.replaceAll(/[^\w.+~-]/g, '_')}-${sources}.raw`;
}

/** Removes what builds left behind whose process is gone. */
async function removeUnfinished(cacheDirectory: string): Promise<void> {
  for (const name of await readdir(cacheDirectory)) {
    const builder = new RegExp(`^${UNFINISHED.replace('.', '\\.')}(\\d+)-`).exec(name)?.[1];
    if (builder === undefined || (await exists(`/proc/${builder}`))) continue;
    await rm(join(cacheDirectory, name), { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
