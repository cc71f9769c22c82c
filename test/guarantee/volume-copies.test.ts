import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SecretId } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES, LUKS2_HEADER_BYTES } from '#core/sizes.ts';
import { startOf } from '#test/support/encrypted-medium.ts';
import { findStrays } from '#test/support/strays.ts';
import { isOnLogicalVolumes } from '#test/support/volume-backends.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const BYTE = 0xa5;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** Copies of a volume that a server has: with the keys that its type asks for, and of one moment. */
describe('a copy of a volume that a server has', { timeout: isOnLogicalVolumes ? 7_200_000 : 600_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  let source: string;
  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'raw', shutdownTimeout: 0 });
    await lab.addEncryptedType('anew', { 'nightlatch:clone_key': 'volume-key' });
    const flavor = await lab.servers.addFlavor({}, { ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
    source = await lab.addVolume({ name: 'source', volume_type: 'anew' });
    await lab.fill(await lab.fileOf(source), await secretOf(source), BYTE);
    await lab.attach(server, source);
  });
  after(() => lab[Symbol.asyncDispose]());

  const secretOf = async (volume: string): Promise<SecretId> => {
    const secret = await lab.secretOf(volume);
    assert.ok(secret);
    return secret;
  };
  const act = async (action: object, status: string) => {
    await lab.servers.cloud.act(server, action);
    await lab.servers.cloud.waitForStatus(server, status);
  };
  const stop = async () => {
    const { status } = await lab.servers.cloud.server(server);
    if (status !== 'SHUTOFF') await act({ 'os-stop': null }, 'SHUTOFF');
  };
  const clone = async () => {
    const { volume } = await lab.must('POST', '/volumes', { volume: { name: 'clone', source_volid: source } });
    return volume.id as string;
  };
  /** What the passphrase of a volume lies over, in hexadecimal digits. */
  const volumeKeyOf = async (volume: string): Promise<string> => {
    const path = await lab.mediumOf(volume);
    const dump = ['--batch-mode', 'luksDump', '--dump-volume-key', '--key-file=-', path];
    const { stdout } = await lab.withSecret(await secretOf(volume), (input) =>
      spawnSync('cryptsetup', dump, { input }),
    );
    const [, dumped = ''] = /MK dump:\s+([0-9a-f\s]+)/.exec(stdout.toString()) ?? [];
    assert.equal(dumped.replaceAll(/\s/g, '').length, 128);
    return dumped.replaceAll(/\s/g, '');
  };
  const opensByVolumeKey = async (volumeKey: string, volume: string): Promise<boolean> => {
    // cryptsetup opens a pipe by that name, and not the socket that a child of Node has there.
    const shell = ['-c', 'cat | exec cryptsetup open --test-passphrase --volume-key-file /dev/stdin "$@"', 'sh'];
    const input = Buffer.from(volumeKey, 'hex');
    return spawnSync('sh', [...shell, await lab.mediumOf(volume)], { input }).status === 0;
  };
  /** The ciphertext of what was written to the source. */
  const written = async (volume: string) => {
    const { path, encryption } = await lab.fileOf(volume);
    const header = encryption === 'luksv2' ? LUKS2_HEADER_BYTES : LUKS1_HEADER_BYTES;
    return (await startOf(path, header + 65_536)).subarray(header);
  };
  const holdsTheSame = async (volume: string) => lab.holds(await lab.fileOf(volume), await secretOf(volume), BYTE);

  for (const [status, prepare] of [
    ...(isWhole ? ([['ACTIVE', async () => {}]] as const) : []),
    ['SHUTOFF', () => stop()] as const,
  ]) {
    test(`has a volume key of its own where the type asks for it (${status}): the source’s opens nothing of it`, async () => {
      await prepare();
      const copy = await clone();
      await lab.reach('volume', copy, 'available');
      const [sourceKey, copyKey] = [await volumeKeyOf(source), await volumeKeyOf(copy)];
      assert.equal(await opensByVolumeKey(sourceKey, source), true);
      assert.equal(await opensByVolumeKey(copyKey, copy), true);
      assert.equal(await opensByVolumeKey(sourceKey, copy), false);
      assert.equal(await lab.opens(await secretOf(source), await lab.mediumOf(copy)), false);
      assert.ok(!(await written(copy)).equals(await written(source)), 'it is other ciphertext');
      assert.equal(await holdsTheSame(copy), true);
      await lab.delete('volume', copy);
      assert.deepEqual(await findStrays(lab.servers.service), []);
    });
  }

  test('keeps the volume key where the type asks for nothing: the passphrase alone is another', async () => {
    await lab.addEncryptedType('same');
    const plain = await lab.addVolume({ name: 'other', volume_type: 'same' });
    const copy = await lab.addVolume({ name: 'clone', source_volid: plain });
    assert.equal(await volumeKeyOf(copy), await volumeKeyOf(plain));
    assert.equal(await opensByVolumeKey(await volumeKeyOf(plain), copy), true);
    assert.equal(await lab.opens(await secretOf(plain), await lab.mediumOf(copy)), false);
    for (const volume of [copy, plain]) await lab.delete('volume', volume);
  });

  test('is of one moment though the server is started meanwhile: that waits, and then runs under a lease', async () => {
    await stop();
    const copy = await clone();
    const pid = await caught(copy);
    try {
      await lab.servers.cloud.act(server, { 'os-start': null });
      await sleep(2000);
      const { status, 'OS-EXT-STS:task_state': task } = await lab.servers.cloud.server(server);
      assert.deepEqual([status, task], ['SHUTOFF', 'powering-on']);
      assert.equal((await lab.show('volume', copy)).status, 'creating');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await lab.reach('volume', copy, 'available');
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    assert.equal(await holdsTheSame(copy), true);
    await lab.delete('volume', copy);
  });

  test('goes on when the server is deleted meanwhile, which does not wait for it though its start did', async () => {
    await stop();
    const copy = await clone();
    const pid = await caught(copy);
    try {
      await lab.servers.cloud.act(server, { 'os-start': null });
      await sleep(500);
      await lab.servers.delete(server);
      assert.equal((await lab.show('volume', copy)).status, 'creating');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await lab.reach('volume', copy, 'available');
    await lab.reach('volume', source, 'available');
    assert.equal(await holdsTheSame(copy), true);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    for (const volume of [copy, source]) await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  /** Stops the program that copies, in the middle of it; returns its process id. */
  const caught = async (copy: string): Promise<number> => {
    let found: number | null = null;
    await waitUntil('it is being copied', async () => {
      for (let look = 0; look < 100 && found === null; look++) found = await copying();
      if (found === null)
        assert.equal((await lab.show('volume', copy)).status, 'creating', 'it was not caught in time');
      return found !== null;
    });
    assert.ok(found);
    process.kill(found, 'SIGSTOP');
    return found;
  };

  /** The process that copies from one unlocked disk of this service to another: through QEMU's, or the kernel's. */
  const copying = async (): Promise<number | null> => {
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
      const [program = '', ...args] = (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).split('\0');
      const isUnlocked = (arg: string) =>
        arg.includes(`${lab.servers.service.stateDirectory}/run/unlocked/`) || arg.includes('/dev/mapper/nl-');
      const unlocked = args.filter(isUnlocked);
      if (program.endsWith('qemu-img') && args[0] === 'convert' && unlocked.length === 2) return Number(pid);
    }
    return null;
  };
});
