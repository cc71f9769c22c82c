import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { run } from '#host/exec.ts';
import { findModules, loadOrder } from './kernel-modules.ts';

/** What the guest loads, by the name under which its scripts ask for it. */
const moduleGroups = {
  'virtio-disk': ['virtio_pci', 'virtio_blk'],
  'other-disk': ['virtio_scsi', 'ata_piix', 'sd_mod'],
  optical: ['sr_mod'],
  'config-drive': ['isofs', 'nls_cp437', 'nls_utf8', 'nls_ascii', 'vfat'],
  'power-button': ['button', 'evdev'],
} as const;

type ModuleGroup = keyof typeof moduleGroups;

const moduleFolders = [
  ...[
    'drivers/virtio',
    'drivers/block',
    'drivers/scsi',
    'drivers/ata',
    'drivers/cdrom',
    'drivers/acpi',
    'drivers/input',
  ],
  ...['fs/isofs', 'fs/fat', 'fs/nls'],
];

const firstStageTools = ['sh', 'mount', 'insmod', 'dd', 'tr', 'usleep', 'poweroff', 'switch_root'];

// `panic=1`: a guest that crashed boots again. The rest is what a TCG guest need not spend its boot on.
const COMMAND_LINE = 'console=ttyS0 quiet panic=1 mitigations=off';
const BOOT_LOADER = `DEFAULT linux\nPROMPT 0\nLABEL linux\n  KERNEL vmlinuz\n  INITRD initrd\n  APPEND ${COMMAND_LINE}\n`;

/** Unpacked packages. */
export type Unpacked = { readonly kernel: string; readonly busybox: string };

/** Gathers kernel, first stage and boot loader configuration in the new folder `into`; returns their paths. */
export async function gatherBootFiles(unpacked: Unpacked, into: string): Promise<readonly string[]> {
  await mkdir(into);
  const [kernel, initrd, config] = [join(into, 'vmlinuz'), join(into, 'initrd'), join(into, 'syslinux.cfg')];
  await copyFile(await kernelFile(unpacked.kernel), kernel);
  await packFirstStage(unpacked, initrd);
  await writeFile(config, BOOT_LOADER);
  return [kernel, initrd, config];
}

/** Lays out the guest's root file system in the new folder `into`. */
export async function layOutRoot(unpacked: Unpacked, into: string): Promise<void> {
  await layOutBusybox(unpacked, into);
  const folders = ['dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'root', 'usr/bin', 'usr/sbin', 'var/lib', 'etc/init.d'];
  for (const folder of [...folders, 'etc/acpi/PWRF']) await mkdir(join(into, folder), { recursive: true });
  await chmod(join(into, 'tmp'), 0o1777);
  await symlink('../bin/busybox', join(into, 'sbin/init'));
  await copyGuestFile('inittab', join(into, 'etc/inittab'));
  await copyGuestFile('boot.sh', join(into, 'etc/init.d/boot'));
  await copyGuestFile('end.sh', join(into, 'etc/init.d/end'));
  await copyGuestFile('power-off.sh', join(into, 'sbin/poweroff'));
  await copyGuestFile('power-button.sh', join(into, 'etc/acpi/PWRF/00000080'));
  await writeFile(join(into, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(join(into, 'etc/group'), 'root:x:0:\n');
  await writeModules(unpacked.kernel, into, ['other-disk', 'optical', 'config-drive', 'power-button']);
}

/** Changes whenever anything of ours that goes into an image changes. */
export async function hashSources(): Promise<string> {
  const hash = createHash('sha256');
  for (const folder of [import.meta.dirname, guestFolder]) {
    for (const entry of (await readdir(folder, { withFileTypes: true })).toSorted((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      if (entry.isFile()) hash.update(entry.name).update(await readFile(join(folder, entry.name)));
    }
  }
  return hash.digest('hex').slice(0, 16);
}

const guestFolder = join(import.meta.dirname, 'guest');

async function packFirstStage(unpacked: Unpacked, file: string): Promise<void> {
  const root = `${file}.root`;
  await layOutBusybox(unpacked, root);
  for (const folder of ['dev', 'proc', 'sys', 'root']) await mkdir(join(root, folder));
  for (const tool of firstStageTools) await symlink('busybox', join(root, 'bin', tool));
  await copyGuestFile('init.sh', join(root, 'init'));
  await writeModules(unpacked.kernel, root, ['virtio-disk', 'other-disk']);
  const names = (await readdir(root, { recursive: true })).toSorted();
  await run('cpio', ['--quiet', '-o', '-H', 'newc', '-R', '0:0', '-D', root, '-F', file], {
    doing: 'Building the guest image',
    input: `${names.join('\n')}\n`,
  });
}

async function layOutBusybox(unpacked: Unpacked, root: string): Promise<void> {
  for (const folder of ['bin', 'sbin']) await mkdir(join(root, folder), { recursive: true });
  await copyFile(join(unpacked.busybox, 'bin/busybox'), join(root, 'bin/busybox'));
}

/** Copies modules to /lib/modules, with one list per group that names its files in load order. */
async function writeModules(kernel: string, root: string, groups: readonly ModuleGroup[]): Promise<void> {
  const versions = join(kernel, 'lib/modules');
  const version = (await readdir(versions))[0] ?? '';
  const all = await findModules(join(versions, version, 'kernel'), moduleFolders);
  const target = join(root, 'lib/modules');
  await mkdir(target, { recursive: true });
  for (const group of groups) {
    const modules = loadOrder(moduleGroups[group], all);
    for (const module of modules) await copyFile(module.path, join(target, basename(module.path)));
    await writeFile(join(target, `${group}.list`), modules.map((module) => `${basename(module.path)}\n`).join(''));
  }
}

async function kernelFile(kernel: string): Promise<string> {
  const boot = join(kernel, 'boot');
  const file = (await readdir(boot)).find((name) => name.startsWith('vmlinuz-'));
  if (file === undefined) throw new Error('the kernel package has no /boot/vmlinuz');
  return join(boot, file);
}

async function copyGuestFile(name: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await copyFile(join(guestFolder, name), target);
  await chmod(target, 0o755);
}
