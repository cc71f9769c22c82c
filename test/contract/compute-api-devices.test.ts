import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { DiskId, VolumeId } from '#core/ids.ts';
import { newId, type UserId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { insertVolume, type NewVolume } from '#db/volumes.ts';
import { type Answer, addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/** Requests for servers with volumes, as they are judged; real volumes and guests are in test/scenario. */
describe('block devices of a new server', () => {
  let lab: ComputeLab;
  let image: string;
  let flavor: string;
  let volume: string;

  before(async () => {
    lab = await openComputeLab();
    image = await addImage(lab.db, lab.projects.one, { minDiskGib: 2, virtualSizeBytes: 2 * GIB, minRamMib: 64 });
    const sizes = { ram: 512, vcpus: 1, disk: 2, swap: 16, 'OS-FLV-EXT-DATA:ephemeral': 1 };
    const body = { flavor: { name: 'small', ...sizes } };
    flavor = (await lab.call('POST', '/flavors', { as: 'admin', body })).body.flavor.id;
    volume = await addVolume();
  });
  after(() => lab[Symbol.asyncDispose]());

  async function addVolume(change: Partial<NewVolume> = {}): Promise<VolumeId> {
    const id = newId<VolumeId>();
    await insertVolume(lab.db, {
      id,
      project_id: lab.projects.one,
      user_id: newId<UserId>(),
      name: null,
      description: null,
      size_gib: 3,
      status: 'available',
      volume_type_id: null,
      availability_zone: 'nova',
      metadata: '{}',
      source: JSON.stringify({ kind: 'blank' }),
      bootable: true,
      updated_at: new Date(),
      ...change,
    });
    return id;
  }

  const create = (devices: readonly object[], more: object = {}, version = '2.67'): Promise<Answer> => {
    const server = { name: 'web', flavorRef: flavor, networks: 'none', block_device_mapping_v2: devices, ...more };
    return lab.call('POST', '/servers', { version, body: { server } });
  };
  const refusal = async (...asked: Parameters<typeof create>): Promise<string> => {
    const { status, body } = await create(...asked);
    assert.equal(status, 400, JSON.stringify(body));
    return body.badRequest.message;
  };
  const boot = (more: object) => ({ boot_index: 0, destination_type: 'volume', ...more });
  const fromVolume = () => boot({ source_type: 'volume', uuid: volume });

  it('a server that boots from a volume has no image, and neither needs its flavor’s root disk nor a right to do without', async () => {
    const { status, body } = await create([fromVolume()]);
    assert.equal(status, 202);
    const request = lab.operations.requests.at(-1);
    assert.equal(request?.image, null);
    const from = { kind: 'volume', id: volume };
    assert.deepEqual(request?.volumes, [{ from, bootIndex: 0, device: null, deleteOnTermination: false }]);
    const shown = await lab.call('GET', `/servers/${body.server.id}`);
    assert.equal(shown.body.server.image, '');
  });

  it('a volume is made from an image, a snapshot or nothing, of the size and for as long as asked', async () => {
    const made = boot({ source_type: 'image', uuid: image, volume_size: 4, delete_on_termination: true });
    const blank = { source_type: 'blank', destination_type: 'volume', boot_index: -1, volume_size: 1 };
    assert.equal((await create([made, { ...blank, device_name: '/dev/vdc' }])).status, 202);
    const [first, second] = lab.operations.requests.at(-1)?.volumes ?? [];
    assert.ok(first?.from.kind === 'new' && second?.from.kind === 'new');
    assert.deepEqual(first.from.request.source, { kind: 'image', id: image });
    assert.deepEqual([first.from.request.sizeGib, first.deleteOnTermination, first.bootIndex], [4, true, 0]);
    assert.deepEqual([second.from.request.source.kind, second.device, second.bootIndex], ['blank', '/dev/vdc', null]);
  });

  it('exactly one device is the first to boot from', async () => {
    const sequence = /^Block Device Mapping is Invalid: Boot sequence for the instance/;
    const local = { source_type: 'image', destination_type: 'local', uuid: image, boot_index: 0 };
    assert.match(await refusal([{ ...fromVolume(), boot_index: 1 }]), sequence);
    assert.match(await refusal([{ ...fromVolume(), boot_index: -1 }], { imageRef: image }), sequence);
    assert.match(await refusal([local, fromVolume()], { imageRef: image }), sequence);
    assert.equal(await refusal([], { imageRef: '' }), 'Invalid imageRef provided.');
    assert.equal((await create([local, { ...fromVolume(), boot_index: null }], { imageRef: image })).status, 202);
  });

  it('a volume has to be there, the project’s own, free and bootable, and large enough for its image', async () => {
    const device = (uuid: string) => [boot({ source_type: 'volume', uuid })];
    const foreign = await addVolume({ project_id: lab.projects.two });
    for (const id of [newId<DiskId>(), foreign]) {
      assert.equal(await refusal(device(id)), `Block Device Mapping is Invalid: failed to get volume ${id}.`);
    }
    const used = await addVolume({ status: 'in-use' });
    assert.match(await refusal(device(used)), /^Invalid volume: .*must be 'available'. Currently in 'in-use'/);
    const blank = await addVolume({ bootable: false });
    assert.equal(await refusal(device(blank)), `Block Device ${blank} is not bootable.`);
    const small = await addVolume({ size_gib: 1, image_metadata: JSON.stringify({ min_disk: '2' }) });
    assert.match(await refusal(device(small)), /^Volume is smaller than the minimum size/);
    const hungry = await addVolume({ image_metadata: JSON.stringify({ min_ram: '4096' }) });
    assert.equal(await refusal(device(hungry)), "Flavor's memory is too small for requested image.");
  });

  it('what is left out, does not fit together or is not there is told in Nova’s words', async () => {
    const ofImage = boot({ source_type: 'image', uuid: image });
    const cases: [RegExp, object][] = [
      [/Images with destination_type 'volume' need to have a non-zero size/, ofImage],
      [/Size of specified image 2GB is larger than volume size 1GB/, { ...ofImage, volume_size: 1 }],
      [/need to have non-zero size/, boot({ source_type: 'blank' })],
      [/Block Device is not bootable/, boot({ source_type: 'blank', volume_size: 1 })],
      [/Invalid source_type field/, boot({})],
      [/Missing device UUID/, boot({ source_type: 'volume' })],
      [/Invalid device UUID/, boot({ source_type: 'blank', uuid: volume, volume_size: 1 })],
      [/failed to get snapshot/, boot({ source_type: 'snapshot', uuid: newId<DiskId>() })],
      [/failed to get image/, boot({ source_type: 'image', uuid: newId<DiskId>(), volume_size: 1 })],
      [/failed to get volume no-uuid/, boot({ source_type: 'volume', uuid: 'no-uuid' })],
      [/Mapping image to local is not supported/, { ...ofImage, destination_type: 'local' }],
      [/Volume type .* could not be found/, { ...ofImage, volume_size: 4, volume_type: 'none-such' }],
      [/Specifying volume type to existing volume/, { ...fromVolume(), volume_type: '__DEFAULT__' }],
    ];
    for (const [text, device] of cases) assert.match(await refusal([device]), text);
    assert.match(await refusal([{ ...ofImage, volume_size: 4, volume_type: 'a' }], {}, '2.66'), /volume_type/);
    assert.match(await refusal([fromVolume()], { max_count: 2 }), /Cannot attach one or more volumes to multiple/);
  });

  it('the first version says by device names what is booted from', async () => {
    const legacy = async (devices: readonly object[], more: object) => {
      const asked = { block_device_mapping_v2: undefined, block_device_mapping: devices, ...more };
      const { status, body } = await create([], asked);
      assert.equal(status, 202, JSON.stringify(body));
      const { image: root, volumes } = lab.operations.requests.at(-1) ?? assert.fail('nothing was asked for');
      return { hasImage: root !== null, volumes };
    };
    const from = { kind: 'volume', id: volume };
    const beside = { volume_id: volume, delete_on_termination: '0' };
    assert.deepEqual(await legacy([beside], { imageRef: image }), {
      hasImage: true,
      volumes: [{ from, bootIndex: null, device: null, deleteOnTermination: false }],
    });
    const root = { volume_id: volume, device_name: '/dev/vda', delete_on_termination: true };
    const bootsFrom = [{ from, bootIndex: 0, device: '/dev/vda', deleteOnTermination: true }];
    assert.deepEqual(await legacy([root], { imageRef: image }), { hasImage: false, volumes: bootsFrom });
    assert.deepEqual(await legacy([{ ...root, device_name: 'vda' }], {}), {
      hasImage: false,
      volumes: [{ ...bootsFrom[0], device: 'vda' }],
    });
    const [first] = (await legacy([beside], {})).volumes;
    assert.equal(first?.bootIndex, 0);
    const both = { imageRef: image, block_device_mapping: [beside] };
    assert.match(await refusal([fromVolume()], both), /different block_device_mapping syntaxes/);
  });

  it('an image can stand for volumes, of which a server gets only what its project has', async () => {
    const mapped = async (mapping: unknown) => {
      const text = typeof mapping === 'string' ? mapping : JSON.stringify(mapping);
      return await addImage(lab.db, lab.projects.one, { properties: { block_device_mapping: text } });
    };
    const foreign = await addVolume({ project_id: lab.projects.two });
    const cases: [RegExp, unknown][] = [
      [/cannot be read/, '{'],
      [/cannot be read/, { boot_index: 0 }],
      [/cannot be read/, [{ boot_index: 0, source_type: 'moon' }]],
      [/Boot sequence for the instance/, []],
      [/failed to get volume/, [{ boot_index: 0, source_type: 'volume', volume_id: foreign }]],
      [/Mapping image to local is not supported/, [{ boot_index: 0, source_type: 'image', image_id: image }]],
    ];
    for (const [text, mapping] of cases) assert.match(await refusal([], { imageRef: await mapped(mapping) }), text);
    const good = await mapped([{ boot_index: 0, source_type: 'volume', volume_id: volume }]);
    const { status, body } = await create([], { imageRef: good });
    assert.equal(status, 202);
    assert.equal((await lab.call('GET', `/servers/${body.server.id}`)).body.server.image, '');
  });

  it('blank local disks are those of the flavor', async () => {
    const local = { source_type: 'blank', destination_type: 'local', boot_index: -1 };
    const swap = { ...local, guest_format: 'swap' };
    assert.equal(
      (await create([fromVolume(), { ...local, volume_size: 1 }, { ...swap, volume_size: 16 }])).status,
      202,
    );
    assert.match(await refusal([fromVolume(), { ...local, volume_size: 2 }]), /larger than the instance type allows/);
    assert.match(await refusal([fromVolume(), { ...swap, volume_size: 17 }]), /larger than instance type allows/);
    assert.match(await refusal([fromVolume(), { ...swap, volume_size: 8 }]), /of another size than the flavor’s/);
    assert.match(await refusal([fromVolume(), swap, swap]), /More than one swap drive requested/);
  });

  it('the disks of a server with an encrypted volume are encrypted, unless somebody said that they are not', async () => {
    const luks = { provider: 'luks', cipher: 'aes-xts-plain64', keySize: 256, controlLocation: 'front-end' };
    const secret = await addVolume({ encryption: JSON.stringify(luks) });
    assert.equal((await create([boot({ source_type: 'volume', uuid: secret })])).status, 202);
    assert.equal(lab.operations.requests.at(-1)?.intent.encrypted, true);
    assert.equal((await create([fromVolume()])).status, 202);
    assert.equal(lab.operations.requests.at(-1)?.intent.encrypted, null);
  });
});
