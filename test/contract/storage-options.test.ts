import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parseConfig } from '#config/load.ts';
import { NightlatchError } from '#core/errors.ts';
import { openLocalStorage } from '#main/local-storage.ts';
import { statePaths } from '#main/state-paths.ts';

/** What a configuration asks of disks and this host cannot do stops the start, in words that say what to change. */
let directory: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nightlatch-options-'));
});
after(() => rm(directory, { recursive: true }));

const open = (text: string) => openLocalStorage(parseConfig(text, 'test'), statePaths(directory));

describe('storage options', () => {
  const encryption = '[ephemeral_storage_encryption]\n';
  for (const [what, text, expected] of [
    ['the legacy switch on files', `${encryption}enabled = true\n`, /enabled is true and .*images_type is "qcow2"/],
    ['plain disks in files', `${encryption}default_format = "plain"\n`, /default_format is "plain".*luks only/],
    [
      'LUKS2 disks in files',
      `${encryption}default_format = "luksv2"\n[libvirt]\nimages_type = "raw"\n`,
      /default_format is "luksv2" .*"raw"/,
    ],
    ['a backend without a group', '[volume_backends.fast]\nvolume_driver = "lvm"\n', /fast\] .*volume_group is empty/],
    ['volumes without a group', '[libvirt]\nimages_type = "lvm"\n', /images_volume_group is empty/],
  ] as const) {
    it(`refuse ${what}`, async () => {
      await assert.rejects(open(text), (error) => {
        assert.ok(error instanceof NightlatchError);
        assert.match(error.message, expected);
        return true;
      });
    });
  }

  it('accept what upstream has by default', async () => {
    const text = `${encryption}enabled = false\ncipher = "aes-xts-plain64"\nkey_size = 512\ndefault_format = "luks"\n`;
    const { drivers } = await open(text);
    assert.deepEqual(Object.keys(drivers).sort(), ['qcow2', 'raw']);
  });

  it('name the backends of volumes; without any there is one of files', async () => {
    const places = async (text: string) =>
      (await open(text)).backends.map(({ name, volumeBackendName, storage, directory }) => {
        return [name, volumeBackendName, storage, directory];
      });
    assert.deepEqual(await places(''), [['files', 'files', 'raw', join(directory, 'volumes/files')]]);
    const two =
      '[volume_backends.a]\nvolume_driver = "qcow2"\nvolume_backend_name = "slow"\n' +
      `[volume_backends.b]\nvolume_backend_name = "slow"\ndirectory = "${directory}/elsewhere"\n`;
    assert.deepEqual(await places(two), [
      ['a', 'slow', 'qcow2', join(directory, 'volumes/a')],
      ['b', 'slow', 'raw', join(directory, 'elsewhere')],
    ]);
    assert.deepEqual(await places('[volume_backends]\n'), []);
    for (const name of ['"a#b"', '"a@b"', '".."', '""']) {
      assert.throws(() => parseConfig(`[volume_backends.${name}]\n`, 'test'), /volume_backends/, name);
    }
  });

  it('refuse a format that there is not', () => {
    assert.throws(() => parseConfig(`${encryption}default_format = "rot13"\n`, 'test'), /default_format/);
  });
});
