import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { GIB } from '#core/sizes.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * "Usable size is requested size", asked of a guest: it gets a volume made in every way there is, all at once, and tells how
 * many bytes each has, writes to the last sector of each, and finds the last sector of what it was made from.
 */

const SECTOR = 512;

/** A volume type is named after both. */
const kinds = [
  { storage: 'qcow2', isEncrypted: true },
  { storage: 'raw', isEncrypted: true },
  { storage: 'qcow2', isEncrypted: false },
  { storage: 'raw', isEncrypted: false },
] as const;
type Kind = (typeof kinds)[number];
const typeOf = ({ storage, isEncrypted }: Kind) => `${storage}-${isEncrypted ? 'secret' : 'clear'}`;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

const covering = new Set([
  ...['of a snapshot, larger', 'of a backup, larger', 'restored to a larger one', 'extended twice'],
  ...['retyped to clear and back', 'given another volume key'],
]);

/** `isMarked`: it was made from what has a mark at the end of its first GiB. */
type Made = { readonly id: string; readonly sizeGib: number; readonly isMarked: boolean };

describe('a guest sees volumes as large as was asked for', { timeout: 1_800_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  let guest: CloudShell;
  let bootImage: string;
  let boots = 1;

  before(async () => {
    lab = await VolumesAndServers.open({
      imagesType: 'qcow2',
      shutdownTimeout: 5,
      backends: { raw: 'raw', qcow2: 'qcow2' },
    });
    const quota_set = { volumes: -1, gigabytes: -1, snapshots: -1, backups: -1, backup_gigabytes: -1 };
    await lab.must('PUT', `/os-quota-sets/${lab.projectId}`, { quota_set });
    for (const volume_backend_name of ['raw', 'qcow2']) {
      const extra_specs = { volume_backend_name };
      await lab.addEncryptedType(`${volume_backend_name}-secret`, extra_specs);
      await lab.must('POST', '/types', { volume_type: { name: `${volume_backend_name}-clear`, extra_specs } });
    }
    bootImage = await lab.servers.addBootImage();
    const image = await lab.servers.cloud.uploadImage('guest', (await testGuestImage()).path, 'raw');
    const flavor = await lab.servers.addFlavor({}, { ram: 128, ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, image, { user_data: shellUserData });
    guest = await CloudShell.open(() => lab.servers.cloud, server);
  });
  after(() => lab[Symbol.asyncDispose]());

  const act = async (id: string, body: object, status = 'available') => {
    const answer = await lab.must('POST', `/volumes/${id}/action`, body);
    await lab.settled();
    await lab.reach('volume', id, status);
    return answer;
  };
  const retype = (kind: Kind) => ({ 'os-retype': { new_type: typeOf(kind), migration_policy: 'on-demand' } });
  const deviceOf = async (id: string) => {
    const name = await guest.run(`grep -l ${id.slice(0, 20)} /sys/block/vd*/serial | cut -d/ -f4`);
    assert.match(name, /^vd[a-z]$/, `the guest has no volume ${id}`);
    return `/dev/${name}`;
  };
  /** Text in the last sector of the first so many GiB. */
  const mark = async (id: string, sizeGib: number, word: string) => {
    const seek = `seek=${(sizeGib * GIB) / SECTOR - 1}`;
    await guest.run(`printf ${word} | dd of=${await deviceOf(id)} bs=${SECTOR} ${seek} conv=notrunc,fsync 2>/dev/null`);
  };
  const markOf = async (id: string, sizeGib: number) => {
    const skip = `skip=${(sizeGib * GIB) / SECTOR - 1}`;
    const read = `dd if=${await deviceOf(id)} bs=${SECTOR} ${skip} count=1 2>/dev/null | head -c 4`;
    return await guest.run(`echo 3 >/proc/sys/vm/drop_caches; ${read}`);
  };
  /** Of each disk that has a serial number, which is the start of the volume's id, its bytes. */
  const seen = async (): Promise<Map<string, number>> => {
    const each = 'echo $(cat $disk/serial):$(blockdev --getsize64 /dev/$(basename $disk))';
    const words = (await guest.run(`for disk in /sys/block/vd*; do ${each}; done`)).split(' ');
    return new Map(words.map((word) => [word.split(':')[0] ?? '', Number(word.split(':')[1])]));
  };
  const stop = async () => {
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
  };
  const start = async () => {
    await lab.servers.cloud.act(server, { 'os-start': null });
    guest = await CloudShell.open(() => lab.servers.cloud, server, ++boots);
  };

  /** Each makes a volume; those after the first three from the source, or from what was made of it. */
  function waysFor(kind: Kind, source: string): Readonly<Record<string, () => Promise<Made>>> {
    const volume_type = typeOf(kind);
    const create = (body: object) => lab.addVolume({ volume_type, ...body });
    const own = (size = 1) => create({ source_volid: source, size });
    const made = (id: string, sizeGib = 1): Made => ({ id, sizeGib, isMarked: true });
    const changed = async (body: object, sizeGib = 1) => {
      const id = await own();
      await act(id, body);
      return made(id, sizeGib);
    };
    const from = async (other: Kind) => {
      const clear = await own();
      await act(clear, retype(other));
      await act(clear, retype(kind));
      return made(clear);
    };
    const other = (storage: Kind['storage'], isEncrypted: boolean) => ({ storage, isEncrypted }) as Kind;
    const { storage, isEncrypted } = kind;
    const ways = {
      blank: async () => ({ ...made(await create({ size: 2 }), 2), isMarked: false }),
      'of an image': async () => ({ ...made(await create({ imageRef: bootImage, size: 2 }), 2), isMarked: false }),
      reimaged: async () => ({ ...(await changed({ 'os-reimage': { image_id: bootImage } })), isMarked: false }),
      'of an image made of a volume': async () => {
        const upload = { 'os-volume_upload_image': { image_name: 'made', disk_format: 'qcow2' } };
        const { 'os-volume_upload_image': image } = await act(source, upload);
        return made(await create({ imageRef: image.image_id, size: 2 }), 2);
      },
      'of a snapshot': async () => made(await create({ snapshot_id: await lab.addSnapshot(source) })),
      'of a snapshot, larger': async () =>
        made(await create({ snapshot_id: await lab.addSnapshot(source), size: 2 }), 2),
      'of a volume': async () => made(await own()),
      'of a volume, larger': async () => made(await own(2), 2),
      'of a backup, larger': async () => made(await create({ backup_id: await lab.addBackup(source), size: 2 }), 2),
      'restored to a larger one': async () => {
        const [backup, id] = [await lab.addBackup(source), await create({ size: 2 })];
        await lab.must('POST', `/backups/${backup}/restore`, { restore: { volume_id: id } });
        await lab.reach('volume', id, 'available');
        return made(id, 2);
      },
      reverted: async () => {
        const id = await own();
        await act(id, { revert: { snapshot_id: await lab.addSnapshot(id) } });
        return made(id);
      },
      'extended twice': async () => {
        const { id } = await changed({ 'os-extend': { new_size: 2 } });
        await act(id, { 'os-extend': { new_size: 3 } });
        return made(id, 3);
      },
      accepted: async () => {
        const id = await own();
        const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: id } });
        await lab.must('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
        await lab.reach('volume', id, 'available');
        return made(id);
      },
      [`retyped to ${isEncrypted ? 'clear' : 'encrypted'} and back`]: () => from(other(storage, !isEncrypted)),
      'retyped to another backend and back': () => from(other(storage === 'raw' ? 'qcow2' : 'raw', isEncrypted)),
    };
    if (!isEncrypted) return ways;
    return {
      ...ways,
      rekeyed: () => changed({ 'nightlatch:rekey': null }),
      'given another volume key': () => changed({ 'nightlatch:rekey': { volume_key: true } }),
    };
  }

  for (const kind of isWhole ? kinds : kinds.slice(0, 1)) {
    it(`however they were made (${kind.storage}, ${kind.isEncrypted ? 'encrypted' : 'in clear'})`, async () => {
      const source = await lab.addVolume({ volume_type: typeOf(kind), name: 'source' });
      await lab.attach(server, source);
      await waitUntil('the guest has it', async () => (await seen()).has(source.slice(0, 20)));
      await mark(source, 1, 'MARK');
      await stop();
      await lab.detach(server, source);

      const volumes = new Map<string, Made>();
      for (const [way, make] of Object.entries(waysFor(kind, source))) {
        if (isWhole || covering.has(way)) volumes.set(way, await make());
      }
      for (const { id } of volumes.values()) await lab.attach(server, id);
      await start();

      const expectSizes = async () => {
        const bytes = await seen();
        const sizes = [...volumes].map(([way, { id }]) => [way, bytes.get(id.slice(0, 20))]);
        assert.deepEqual(
          sizes,
          [...volumes].map(([way, { sizeGib }]) => [way, sizeGib * GIB]),
        );
        for (const [way, { id, sizeGib, isMarked }] of volumes) {
          if (isMarked) assert.equal(await markOf(id, 1), 'MARK', `${way}: it holds not what it was made from`);
          if (sizeGib === 1) continue;
          await mark(id, sizeGib, 'LAST');
          assert.equal(await markOf(id, sizeGib), 'LAST', `${way}: its last sector is of no use`);
        }
        assert.deepEqual(await findStrays(lab.servers.service), []);
      };
      await expectSizes();

      // While the guest has them.
      const changes: Readonly<Record<string, object>> = {
        'of a backup, larger': { 'os-extend': { new_size: 3 } },
        'extended twice': { 'os-extend': { new_size: 4 } },
        'of a snapshot, larger': retype({ ...kind, isEncrypted: !kind.isEncrypted } as Kind),
        'restored to a larger one': retype({ ...kind, storage: kind.storage === 'raw' ? 'qcow2' : 'raw' } as Kind),
        ...(kind.isEncrypted ? { 'given another volume key': { 'nightlatch:rekey': { volume_key: true } } } : {}),
      };
      for (const [way, body] of Object.entries(changes)) {
        const one = volumes.get(way);
        assert.ok(one);
        await act(one.id, body, 'in-use');
        const size = (body as { 'os-extend'?: { new_size: number } })['os-extend']?.new_size ?? one.sizeGib;
        volumes.set(way, { ...one, sizeGib: size });
      }
      await expectSizes();
      if (!isWhole) return;
      await stop();
      for (const { id } of volumes.values()) await lab.detach(server, id);
      await start();
    });
  }
});
