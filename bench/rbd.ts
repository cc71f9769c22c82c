import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Secret } from '#core/secret.ts';
import { GIB } from '#core/sizes.ts';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { usePool } from '#test/support/pool.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { createVolume } from './block-storage.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';
import { amendStockKey, createStock } from './stock-disk.ts';

type Progress = (line: string) => void;
type Place = { readonly lab: VolumesAndServers; readonly cluster: CephCluster };

const BENCH = 'rbd';
const ROUNDS = 5;
const POOL = 'volumes';
const TYPE = 'encrypted';
const WRITTEN_MIB = 64;

/**
 * Volumes that are images in a pool, over HTTP until the status, next to the stock programs by themselves. The cluster is one
 * of our own, of one monitor and one OSD whose bytes lie in memory: what a disk costs is not in these figures.
 */
export async function benchRbd(progress: Progress): Promise<Comparison[]> {
  await using cluster = await CephCluster.start(POOL);
  usePool(cluster, POOL);
  await using lab = await VolumesAndServers.open({ imagesType: 'qcow2', backends: { pool: 'rbd' } });
  await lab.addEncryptedType(TYPE);
  await lab.must('POST', '/types', { volume_type: { name: 'clear' } });
  const compared = [];
  for (const measure of [compareCreation, compareRekey, compareClones, compareGuests]) {
    compared.push(await measure({ lab, cluster }, progress));
  }
  return compared;
}

/** Upstream formats a local file and imports it. */
async function compareCreation({ lab, cluster }: Place, progress: Progress): Promise<Comparison> {
  using key = Secret.generate();
  const file = join(lab.servers.service.directory, 'stock');
  const times = await inTurns(
    ROUNDS,
    {
      ours: async () => {
        const { id, ms } = await createVolume(lab, { size: 1, volume_type: TYPE });
        await lab.delete('volume', id);
        return ms;
      },
      stock: async () => {
        const created = await createStock(file, 'raw', GIB, key);
        const imported = await timed(async () => cluster.rbd('import', '--no-progress', file, `${POOL}/stock`));
        cluster.rbd('rm', '--no-progress', `${POOL}/stock`);
        await rm(file);
        return created + imported;
      },
    },
    progress,
  );
  return {
    bench: BENCH,
    ours: { what: 'create an encrypted volume of 1 GiB, until available', times: times.ours },
    other: { what: 'qemu-img create -f luks to a file, rbd import', times: times.stock },
    target: 1,
  };
}

async function compareRekey({ lab, cluster }: Place, progress: Progress): Promise<Comparison> {
  const { id } = await createVolume(lab, { size: 1, volume_type: TYPE });
  const file = join(lab.servers.service.directory, 'stock');
  const keys = [Secret.generate(), Secret.generate()] as [Secret, Secret];
  await createStock(file, 'raw', GIB, keys[0]);
  cluster.rbd('import', '--no-progress', file, `${POOL}/stock`);
  await rm(file);
  const image = { pool: POOL, image: 'stock', conf: cluster.conf, user: cluster.user };
  const times = await inTurns(
    ROUNDS,
    {
      ours: () =>
        timed(async () => {
          await lab.must('POST', `/volumes/${id}/action`, { 'nightlatch:rekey': null });
          await lab.settled();
        }),
      stock: async () => {
        const ms = await timed(() => amendStockKey(image, ...keys));
        keys.reverse();
        return ms;
      },
    },
    progress,
  );
  for (const key of keys) key[Symbol.dispose]();
  cluster.rbd('rm', '--no-progress', `${POOL}/stock`);
  await lab.delete('volume', id);
  return {
    bench: BENCH,
    ours: { what: 'rekey a volume, until nothing is done any more', times: times.ours },
    other: { what: 'qemu-img amend: the new key in, the old one out', times: times.stock },
    target: 1,
  };
}

async function compareClones({ lab }: Place, progress: Progress): Promise<Comparison> {
  const { id: small } = await createVolume(lab, { size: 1, volume_type: TYPE });
  const { id: large } = await createVolume(lab, { size: 10, volume_type: TYPE });
  const clone = (source: string, size: number) => async () => {
    const { id, ms } = await createVolume(lab, { size, source_volid: source });
    await lab.delete('volume', id);
    return ms;
  };
  const times = await inTurns(ROUNDS, { large: clone(large, 10), small: clone(small, 1) }, progress);
  for (const id of [small, large]) await lab.delete('volume', id);
  return {
    bench: BENCH,
    ours: { what: 'clone an encrypted volume of 10 GiB, with a key of its own', times: times.large },
    other: { what: 'clone one of 1 GiB', times: times.small },
    target: 1.2,
  };
}

/** A guest writes to a volume past its cache, and the time is taken from outside. */
async function compareGuests({ lab }: Place, progress: Progress): Promise<Comparison> {
  const image = await lab.servers.cloud.uploadImage('guest', (await testGuestImage()).path, 'raw');
  const flavor = await lab.servers.addFlavor({}, { ram: 128, ephemeral: 0, swap: 0 });
  const server = await lab.servers.create(flavor, image, { user_data: shellUserData });
  const devices: string[] = [];
  for (const volume_type of [TYPE, 'clear']) {
    const { id } = await createVolume(lab, { size: 1, volume_type });
    const { device } = await lab.attach(server, id);
    devices.push(device);
  }
  const guest = await CloudShell.open(() => lab.servers.cloud, server);
  const write =
    (device = '') =>
    async () => {
      const command = `dd if=/dev/zero of=${device} bs=1M count=${WRITTEN_MIB} oflag=direct conv=fsync 2>/dev/null`;
      return await timed(() => guest.run(command));
    };
  const times = await inTurns(ROUNDS, { encrypted: write(devices[0]), clear: write(devices[1]) }, progress);
  return {
    bench: BENCH,
    ours: { what: `a guest writes ${WRITTEN_MIB} MiB to an encrypted volume`, times: times.encrypted },
    other: { what: 'to one that is not', times: times.clear },
    target: null,
    figures: ['In pieces of 1 MiB, each waited for; the processor of the guest is emulated.'],
  };
}
