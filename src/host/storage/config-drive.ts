import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CONFIG_DRIVE_LABEL } from '#core/config-drive.ts';
import type { ConfigDriveFile } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { scratchFolder } from '#host/scratch.ts';

/**
 * Builds the ISO 9660 image of a config drive, with Joliet and Rock Ridge names, and returns its bytes.
 *
 * User data may hold secrets, so the files and the image lie only in memory-backed storage and only for this call.
 * *Throws* program-missing, disk-full. *See* nova.virt.configdrive and OpenStack "Config drives".
 */
export async function buildConfigDrive(
  files: readonly ConfigDriveFile[],
  runDirectory: HostPath,
  doing: string,
): Promise<Buffer> {
  await using folder = await scratchFolder(runDirectory);
  const tree = join(folder.path, 'tree');
  await mkdir(tree);
  for (const file of files) await writeBelow(tree, file);
  const image = join(folder.path, 'image');
  await run('xorrisofs', ['-quiet', '-J', '-r', '-V', CONFIG_DRIVE_LABEL, '-o', image, tree], { doing });
  return await readFile(image);
}

async function writeBelow(tree: string, { path, base64 }: ConfigDriveFile): Promise<void> {
  const isRelative = path.split('/').every((name) => name !== '' && name !== '.' && name !== '..');
  if (!isRelative || path.includes('\0')) throw new Error('a config drive file must have a relative path without dots');
  const target = join(tree, path);
  await mkdir(dirname(target), { recursive: true });
  await writeFile(target, Buffer.from(base64, 'base64'), { mode: 0o600 });
}
