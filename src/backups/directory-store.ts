import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { hasCode, syncFolder, tellingDiskFull } from '#host/files.ts';
import { type BackupStore, checkObjectName } from './backup-store.ts';

/** Keeps each object as a file under a directory, which may be a mounted share. */
export function directoryStore(directory: HostPath): BackupStore {
  const pathOf = (name: string) => join(directory, checkObjectName(name));
  return {
    async put(name, bytes) {
      const path = pathOf(name);
      await tellingDiskFull(`Storing backup object ${name}`, directory, async () => {
        await mkdir(dirname(path), { recursive: true, mode: 0o700 });
        await writeDurably(`${path}.part`, bytes);
        await rename(`${path}.part`, path);
        await syncFolder(dirname(path));
      });
    },

    async get(name) {
      try {
        return await readFile(pathOf(name));
      } catch (error) {
        if (hasCode(error, 'ENOENT'))
          throw new NightlatchError('backup-damaged', { reason: `${name} is not in the backup store` });
        throw error;
      }
    },

    async deleteAll(folder) {
      await rm(pathOf(folder), { recursive: true, force: true });
    },
  };
}

async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  await using file = await open(path, 'w', 0o600);
  await file.writeFile(bytes);
  await file.sync();
}
