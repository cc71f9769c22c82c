import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { addImage, type Call, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/* Resize and rebuild as Compute API v2.1 has them: what is refused, with which status, and what is answered. */

const ENCRYPTED = { 'hw:ephemeral_encryption': 'true' };
const GIB = 1024 ** 3;

let lab: ComputeLab;
let image: string;
before(async () => {
  lab = await openComputeLab();
  image = await addImage(lab.db, lab.projects.one, { minRamMib: 48 });
  await addFlavor('m1', {});
});
after(() => lab[Symbol.asyncDispose]());

async function addFlavor(id: string, facts: object, extraSpecs: object = {}): Promise<void> {
  const body = { flavor: { id, name: id, ram: 64, vcpus: 1, disk: 2, ...facts } };
  assert.equal((await lab.call('POST', '/flavors', { as: 'admin', body })).status, 200);
  if (Object.keys(extraSpecs).length === 0) return;
  const specs = { as: 'admin', body: { extra_specs: extraSpecs } } as const;
  assert.equal((await lab.call('POST', `/flavors/${id}/os-extra_specs`, specs)).status, 200);
}

async function createActive(flavorRef = 'm1', imageRef = image): Promise<string> {
  const body = { server: { name: 'web', imageRef, flavorRef, networks: 'none' } };
  const { id } = (await lab.call('POST', '/servers', { version: '2.93', body })).body.server;
  await lab.operations.run(id);
  return id;
}

const act = (id: string, body: object, more: Call = {}) =>
  lab.call('POST', `/servers/${id}/action`, { version: '2.93', ...more, body });
const show = async (id: string) => (await lab.call('GET', `/servers/${id}`, { version: '2.93' })).body.server;
const resize = (id: string, flavorRef: string | number, more: Call = {}) => act(id, { resize: { flavorRef } }, more);
const refusal = async (answer: ReturnType<typeof act>) => {
  const { status, body } = await answer;
  const fault = body.badRequest ?? body.conflictingRequest ?? body.forbidden ?? body.itemNotFound;
  return `${status} ${fault?.message ?? fault?.title}`;
};

describe('resize', () => {
  it('passes its states, shows the old flavor until it is done, and is confirmed or reverted', async () => {
    const id = await createActive();
    await addFlavor('m2', { ram: 128 });
    assert.equal((await resize(id, 'm2')).status, 202);
    const during = await show(id);
    assert.deepEqual([during.status, during['OS-EXT-STS:task_state']], ['RESIZE', 'resize_prep']);
    assert.equal(during.flavor.ram, 64);
    assert.match(await refusal(resize(id, 'm2')), /^409 .*while it is in task_state resize_prep$/);
    await lab.operations.end(id, { vm_state: 'resized', old_vm_state: 'active', old_flavor: JSON.stringify({}) });
    assert.equal((await show(id)).status, 'VERIFY_RESIZE');
    for (const body of [{ 'os-stop': null }, { reboot: { type: 'HARD' } }, { rebuild: { imageRef: image } }]) {
      assert.match(await refusal(act(id, body)), /^409 .*while it is in vm_state resized$/, JSON.stringify(body));
    }
    const reverting = await act(id, { revertResize: null });
    assert.deepEqual([reverting.status, (await show(id)).status], [202, 'REVERT_RESIZE']);
    await lab.operations.end(id, { vm_state: 'resized' });
    const confirming = await act(id, { confirmResize: null });
    assert.deepEqual([confirming.status, confirming.body], [204, '']);
    assert.equal((await show(id)).status, 'VERIFY_RESIZE');
  });

  it('is refused when it is no resize, when a disk would shrink, and for what the image needs', async () => {
    const id = await createActive();
    await addFlavor('ephemeral', { 'OS-FLV-EXT-DATA:ephemeral': 1 });
    await addFlavor('smaller', { disk: 1 });
    await addFlavor('zero', { disk: 0 });
    await addFlavor('forgetful', { ram: 32 });
    const unable = '400 Server disk was unable to be resized because:';
    assert.equal(await refusal(resize(id, 'm1')), '400 When resizing, instances must change flavor!');
    assert.equal(await refusal(resize(id, 'none')), '400 Flavor none could not be found.');
    assert.equal(await refusal(resize(id, 'smaller')), `${unable} Unable to resize disk down.`);
    assert.equal(await refusal(resize(id, 'zero')), `${unable} Resize to zero disk flavor is not allowed.`);
    const large = await createActive('ephemeral');
    assert.equal(await refusal(resize(large, 'm1')), `${unable} Unable to resize disk down.`);
    assert.equal(await refusal(resize(id, 'forgetful')), "400 Flavor's memory is too small for requested image.");
    assert.match(await refusal(act(id, { resize: {} })), /^400 /);
    assert.match(await refusal(act(id, { resize: { flavorRef: 'm2', more: 1 } })), /^400 /);
    assert.deepEqual(
      lab.operations.acts.filter(({ serverId }) => serverId === id || serverId === large),
      [],
    );
    assert.equal((await show(id)).status, 'ACTIVE');
  });

  it('cannot change the encryption', async () => {
    await addFlavor('secret', { disk: 3 }, ENCRYPTED);
    await addFlavor('secret2', { disk: 4 }, ENCRYPTED);
    await addFlavor('clear', { disk: 4 }, { 'hw:ephemeral_encryption': 'false' });
    const plain = await createActive();
    assert.match(await refusal(resize(plain, 'secret')), /^400 .*asks for another encryption than its disks have/);
    const secret = await createActive('secret');
    assert.match(await refusal(resize(secret, 'clear')), /^400 .*asks for another encryption/);
    assert.equal((await resize(secret, 'secret2')).status, 202);
    const imageAsks = await addImage(lab.db, lab.projects.one, { properties: { hw_ephemeral_encryption: 'true' } });
    const asked = await createActive('m1', imageAsks);
    assert.match(
      await refusal(resize(asked, 'clear')),
      /^400 Flavor clear has hw:ephemeral_encryption=false but image/,
    );
    assert.equal((await resize(asked, 'secret2')).status, 202);
  });

  it('is for those who may, from the states it is for', async () => {
    const id = await createActive();
    assert.equal((await resize(id, 'm2', { as: 'reader' })).status, 403);
    assert.equal((await resize(id, 'm2', { as: 'stranger' })).status, 404);
    assert.match(await refusal(act(id, { confirmResize: null })), /^409 Cannot 'confirmResize' .*vm_state active$/);
    assert.match(await refusal(act(id, { revertResize: null })), /^409 Cannot 'revertResize' .*vm_state active$/);
    await act(id, { suspend: null });
    await lab.operations.end(id, { vm_state: 'suspended' });
    assert.match(
      await refusal(resize(id, 'none')),
      /^409 Cannot 'resize' instance .* while it is in vm_state suspended$/,
    );
    const locked = await createActive();
    await act(locked, { lock: null });
    assert.equal(await refusal(resize(locked, 'm2')), `409 Instance ${locked} is locked`);
    const confirmed = await createActive();
    await lab.db
      .updateTable('servers')
      .set({ vm_state: 'resized' })
      .where('id', '=', confirmed as never)
      .execute();
    assert.match(await refusal(act(confirmed, { revertResize: null })), /^400 .*cannot be reverted any more/);
  });
});

describe('rebuild', () => {
  it('answers with the server as it will be, and where it is', async () => {
    const id = await createActive();
    const other = await addImage(lab.db, lab.projects.one);
    const rebuild = {
      ...{ imageRef: other, name: 'new', metadata: { a: 'b' }, adminPass: 'pass', description: 'why' },
      ...{ user_data: 'eHg=', hostname: 'Box', accessIPv4: '192.0.2.1', 'OS-DCF:diskConfig': 'MANUAL' },
      ...{ key_name: null, preserve_ephemeral: false, reimage_boot_volume: false },
    };
    const { status, body, headers } = await act(id, { rebuild });
    assert.equal(status, 202, JSON.stringify(body));
    assert.equal(headers.location, `http://cloud.example:8774/compute/v2.1/servers/${id}`);
    const { server } = body;
    assert.deepEqual([server.image.id, server.name, server.metadata], [other, 'new', { a: 'b' }]);
    assert.deepEqual([server.adminPass, server.user_data, server.status], ['pass', 'eHg=', 'REBUILD']);
    assert.deepEqual(
      [server.description, server.accessIPv4, server['OS-DCF:diskConfig']],
      ['why', '192.0.2.1', 'MANUAL'],
    );
    // Until it is done, the server is what it was.
    assert.deepEqual([(await show(id)).name, (await show(id)).image.id], ['web', image]);
  });

  it('shows and takes what the microversion has', async () => {
    const rebuildAt = async (version: string, more: object) =>
      await act(await createActive(), { rebuild: { imageRef: image, ...more } }, { version });
    const early = (await rebuildAt('2.1', {})).body.server;
    for (const name of ['config_drive', 'OS-EXT-STS:vm_state', 'key_name', 'user_data', 'OS-SRV-USG:launched_at']) {
      assert.ok(!(name in early), name);
    }
    assert.ok('adminPass' in early && 'created' in early);
    assert.ok('key_name' in (await rebuildAt('2.54', {})).body.server);
    assert.ok('config_drive' in (await rebuildAt('2.75', {})).body.server);
    for (const [version, field, value] of [
      ['2.18', 'description', 'x'],
      ['2.53', 'key_name', null],
      ['2.56', 'user_data', 'eHg='],
      ['2.62', 'trusted_image_certificates', null],
      ['2.89', 'hostname', 'x'],
      ['2.92', 'reimage_boot_volume', true],
    ] as const) {
      const next = `2.${Number(version.slice(2)) + 1}`;
      assert.match(await refusal(rebuildAt(version, { [field]: value })), /^400 .*was unexpected/, field);
      assert.equal((await rebuildAt(next, { [field]: value })).status, 202, field);
    }
  });

  it('is refused for an image that does not fit, and for what is not served', async () => {
    const id = await createActive();
    const rebuild = (fields: object, more: Call = {}) => act(id, { rebuild: { imageRef: image, ...fields } }, more);
    const large = await addImage(lab.db, lab.projects.one, { virtualSizeBytes: 3 * GIB });
    const queued = await addImage(lab.db, lab.projects.one, { status: 'queued' });
    const foreign = await addImage(lab.db, lab.projects.two);
    assert.match(await refusal(rebuild({ imageRef: large })), /^400 Flavor's disk is too small for requested image/);
    assert.equal(await refusal(rebuild({ imageRef: queued })), `400 Image ${queued} is not active.`);
    assert.equal(await refusal(rebuild({ imageRef: foreign })), '400 Can not find requested image');
    assert.match(await refusal(rebuild({ imageRef: 'x' })), /^400 .*it is not a 'uuid'/);
    assert.match(await refusal(rebuild({ preserve_ephemeral: true })), /^400 .*does not support preserving ephemeral/);
    assert.equal(await refusal(rebuild({ key_name: 'none-such' })), '400 Invalid key_name provided.');
    assert.match(await refusal(rebuild({ user_data: '!' })), /^400 .*not base64/);
    const many = Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`key${i}`, 'x']));
    assert.match(await refusal(rebuild({ metadata: many })), /^403 Maximum number of metadata items/);
    assert.equal((await rebuild({}, { as: 'reader' })).status, 403);
    assert.equal((await show(id)).status, 'ACTIVE');
  });

  it('may change the encryption, but only at the word of its owner', async () => {
    const id = await createActive();
    await lab.db
      .insertInto('disks')
      .values({
        ...{ id: crypto.randomUUID() as never, owner_id: id as never, project_id: lab.projects.one, role: 'root' },
        ...{ ordinal: 0, size_bytes: GIB, storage: 'raw', encryption: null, encrypted: false, state: 'formatted' },
      })
      .execute();
    const properties = { hw_ephemeral_encryption: 'true' };
    const imageRef = await addImage(lab.db, lab.projects.one, { properties, visibility: 'public' });
    const rebuild = (as: 'admin' | 'member') => act(id, { rebuild: { imageRef } }, { as });
    assert.match(await refusal(rebuild('admin')), /^403 Only a user of the project that owns server/);
    assert.equal((await rebuild('member')).status, 202);
  });
});
