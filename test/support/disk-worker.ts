/**
 * A service in miniature, to be killed or to be run where a program is missing. Arguments: a verb, a folder with
 * `disks`, `cache` and `run` in it, and a disk as JSON; the key comes by standard input.
 *
 * `format`, `unlock`, `filesystem`, `rekey` (of the two halves of the key, the first to the second) do that and end, `hold` unlocks and waits. Prints `ok PATH` or `CODE PROGRAM`.
 */
import { readFileSync } from 'node:fs';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { luks2Encryptor } from '#host/encryption/dm-crypt/luks2.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { grantPrivilege } from '#host/grant.ts';
import { fillDisk } from '#host/storage/fill.ts';
import { defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import { rbdStorage } from '#host/storage/rbd/driver.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import { pool } from '#test/support/pool.ts';

const [verb, disksDirectory, cacheDirectory, runDirectory, json = ''] = process.argv.slice(2) as HostPath[];
if (!disksDirectory || !cacheDirectory || !runDirectory) throw new Error('usage: see above');
const disk = JSON.parse(json) as DiskSpec;
const given = readFileSync(0);
using key = Secret.adopt(given.subarray(0, verb === 'rekey' ? given.length / 2 : given.length));
using newKey = Secret.adopt(given.subarray(given.length / 2));
grantPrivilege({
  directories: [disksDirectory, runDirectory],
  volumeGroups: [process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? ''],
});
const exports = new FuseExports({ runDirectory });
const luks = luksEncryptor({ runDirectory, exports });
const options = { noReadWorkqueue: false, noWriteWorkqueue: false };
const encryptor = disk.encryption === 'luksv2' ? luks2Encryptor(new Mappings(), options, runDirectory) : luks;
const volumeGroup = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
const driver = {
  raw: rawStorage({ disksDirectory }),
  qcow2: qcow2Storage({ disksDirectory, cacheDirectory }),
  lvm: lvmStorage({ volumeGroup, thinPool: null, noteOf: () => null, clearing: defaultClearing }),
  rbd: rbdStorage({ pool: pool ?? { name: '', conf: runDirectory, user: '' }, runDirectory }),
}[disk.storage] as StorageDriver;
const medium = { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };

async function obey(runDirectory: HostPath): Promise<string> {
  if (verb === 'format') await encryptor.format(disk, medium, key);
  if (verb === 'rekey') await encryptor.rekey?.(disk, medium, key, newKey, { keep: async () => {} });
  if (verb === 'filesystem') {
    const path = await encryptor.unlock(disk, medium, key);
    const source = { sourceFile: null, isZeroed: false, runDirectory };
    await fillDisk(disk, { kind: 'filesystem', label: 'x' }, path, source).finally(() => encryptor.lock(disk));
  }
  return verb === 'unlock' || verb === 'hold' ? await encryptor.unlock(disk, medium, key) : '';
}

try {
  process.stdout.write(`ok ${await obey(runDirectory)}\n`);
  if (verb === 'hold') setInterval(() => {}, 60_000);
} catch (error) {
  if (!(error instanceof NightlatchError)) throw error;
  process.stdout.write(`${error.code} ${error.details.program ?? ''}\n`);
}
