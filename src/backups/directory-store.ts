import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { hasCode, syncFolder, tellingDiskFull } from '#host/files.ts';
import type { BackupStore } from './backup-store.ts';

const NAME = /^[a-z0-9-]+(\/[a-z0-9.-]+)*$/;

/** Keeps each object as a file under a directory, which may be a mounted share. */
export function directoryStore(directory: HostPath): BackupStore {
  const pathOf = (name: string) => {
    if (!NAME.test(name) || name.includes('..')) throw new Error(`${name} must not become a path`);
    return join(directory, name);
  };
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
        const file = await open(pathOf(name), 'r');
        await file.close();
      } catch (error) {
        if (hasCode(error, 'ENOENT'))
          throw new NightlatchError('backup-damaged', { reason: `${name} is not in the backup store` });
        throw error;
      }
      return createReadStream(pathOf(name), { highWaterMark: 1 << 20 });
    },

    deleteAll: (prefix) => rm(pathOf(prefix), { recursive: true, force: true }),
  };
}

async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  await using file = await open(path, 'w', 0o600);
  await file.writeFile(bytes);
  await file.sync();
}
