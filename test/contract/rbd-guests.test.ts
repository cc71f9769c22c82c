import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { domainDisk, domainKeys } from '#host/domain-disks.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { grantPrivilege } from '#host/grant.ts';
import type { DomainSpec } from '#host/hypervisor/hypervisor.ts';
import { LibvirtHypervisor } from '#host/hypervisor/libvirt/driver.ts';
import { PrivateLibvirt } from '#host/hypervisor/libvirt/private-daemon.ts';
import { releaseRunDirectory } from '#host/run-directory.ts';
import { rbdStorage } from '#host/storage/rbd/driver.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { mediumOf, someDisk } from '#test/support/disk-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

describe('a guest whose disk is an image in a pool', { timeout: 240_000 }, () => {
  let data: string;
  let cluster: CephCluster;
  let libvirt: PrivateLibvirt;
  let hypervisor: LibvirtHypervisor;
  const runDirectory = () => `${data}/run` as HostPath;
  const pool = () => ({ name: 'vms', conf: cluster.conf, user: cluster.user });

  before(async () => {
    data = await mkdtemp('/tmp/nl-rbd-');
    grantPrivilege({ directories: [data] });
    cluster = await CephCluster.start('vms');
    const cacheDirectory = `${data}/cache` as HostPath;
    libvirt = await PrivateLibvirt.start({ runDirectory: runDirectory(), cacheDirectory, onTrouble: assert.ifError });
    const { uri, libvirtdPidFile } = libvirt;
    hypervisor = await LibvirtHypervisor.open({ uri, libvirtdPidFile, runDirectory: runDirectory(), virtType: 'qemu' });
  });
  after(async () => {
    await hypervisor?.[Symbol.asyncDispose]();
    await libvirt?.stop();
    await cluster?.[Symbol.asyncDispose]();
    await releaseRunDirectory(runDirectory());
    await rm(data, { recursive: true });
  });

  const start = async (key: Secret): Promise<{ spec: DomainSpec; image: string; begin: () => Promise<void> }> => {
    const serverId = newId<ServerId>();
    const disk = someDisk({ storage: 'rbd', role: 'root', ownerId: serverId, sizeBytes: MIB });
    const driver = rbdStorage({ pool: pool(), runDirectory: runDirectory() });
    const encryptor = luksEncryptor({
      runDirectory: runDirectory(),
      exports: new FuseExports({ runDirectory: runDirectory() }),
    });
    await driver.create(disk, null);
    const medium = await mediumOf(driver, disk);
    await encryptor.format(disk, medium, key);
    await writeFile(await encryptor.unlock(disk, medium, key), bootSector(), { flag: 'r+' });
    await encryptor.lock(disk);
    const attachment = driver.attachment(disk);
    const about = {
      name: `instance-${serverId.slice(0, 8)}`,
      displayName: 'x',
      projectId: 'p',
      vcpus: 1,
      memoryMib: 64,
    };
    const disks = [domainDisk({ disk, target: 'vda' }, attachment, false)];
    const spec: DomainSpec = { serverId, ...about, network: 'none', disks };
    const keys = domainKeys([disk], new Map([[disk.id, key]]));
    return { spec, image: attachment.rbd.image, begin: () => hypervisor.start(spec, keys) };
  };

  test('boots from it, encrypted, by the cephx key of the service’s user; libvirt forgets both keys', async () => {
    using key = Secret.generate();
    const { spec, image, begin } = await start(key);
    await begin();
    const says = async () => (await hypervisor.consoleLog(spec.serverId, 100)).toString('latin1');
    await waitUntil('the guest is up', async () => (await says()).endsWith('READY\n'), 30_000);
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.deepEqual(
      (await hypervisor.disks(spec.serverId)).map(({ path }) => path),
      [`vms/${image}`],
    );
    assert.match(cluster.rbd('status', `vms/${image}`), /watcher=127\.0\.0\.1/);
    assert.equal(cluster.bytesOf(`vms/${image}`).includes(bootSector()), false);
    const cephx = /key = (\S+)/.exec(await readFile(`${cluster.folder}/client.${cluster.user}.keyring`, 'latin1'))?.[1];
    assert.ok(cephx);
    assert.deepEqual(await argumentsHolding(cephx), []);
    await hypervisor.destroy(spec.serverId);
    assert.match(cluster.rbd('status', `vms/${image}`), /Watchers: none/);
  });

  test('does not start without that key, and is told where it was looked for', async () => {
    using key = Secret.generate();
    const { begin } = await start(key);
    const keyring = `${cluster.folder}/client.${cluster.user}.keyring`;
    const kept = await readFile(keyring);
    await writeFile(keyring, '[client.somebody]\n\tkey = AAAA\n');
    try {
      const isTold = (error: unknown) => error instanceof NightlatchError && error.code === 'cluster-key-missing';
      await assert.rejects(begin(), isTold);
    } finally {
      await writeFile(keyring, kept);
    }
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.deepEqual(await hypervisor.domains(), []);
  });
});

/** The processes with this text on their command line. */
async function argumentsHolding(needle: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')));
  return lines.filter((line) => line.includes(needle));
}
