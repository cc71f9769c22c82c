import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ImageId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

let lab: ComputeLab;
let image: ImageId;

before(async () => {
  lab = await openComputeLab();
  image = await addImage(lab.db, lab.projects.one);
  await addFlavor('small', { id: '1' });
});
after(() => lab[Symbol.asyncDispose]());

async function addFlavor(name: string, facts: object = {}): Promise<string> {
  const body = { flavor: { name, ram: 512, vcpus: 1, disk: 2, ...facts } };
  const answer = await lab.call('POST', '/flavors', { as: 'admin', body });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body.flavor.id;
}

async function create(fields: object = {}, version = '2.93', as: 'member' | 'admin' = 'member') {
  const networks = Number(version.split('.')[1]) >= 37 ? { networks: 'none' } : {};
  const server = { name: 'web', imageRef: image, flavorRef: '1', ...networks, ...fields };
  return await lab.call('POST', '/servers', { as, version, body: { server } });
}

async function createActive(fields: object = {}): Promise<string> {
  const answer = await create(fields);
  assert.equal(answer.status, 202, JSON.stringify(answer.body));
  await lab.operations.run(answer.body.server.id);
  return answer.body.server.id;
}

const act = (id: string, body: object, call: object = {}) =>
  lab.call('POST', `/servers/${id}/action`, { body, ...call });
const show = async (id: string, version = '2.93', as: 'member' | 'admin' | 'reader' = 'member') =>
  (await lab.call('GET', `/servers/${id}`, { version, as })).body.server;

describe('versions', () => {
  it('are told without a token', async () => {
    const root = await lab.call('GET', '/compute', { as: null });
    assert.equal(root.status, 200);
    const document = await lab.call('GET', '/compute/v2.1/', { as: null });
    const { id, status, version, min_version, links } = document.body.version;
    assert.deepEqual({ id, status, min_version }, { id: 'v2.1', status: 'CURRENT', min_version: '2.1' });
    assert.equal(version, root.body.versions[0].version);
    assert.equal(links[0].href, 'http://cloud.example:8774/compute/v2.1/');
  });

  it('are agreed on by either header, and every answer says which', async () => {
    for (const [headers, expected] of [
      [{}, '2.1'],
      [{ 'openstack-api-version': 'compute 2.47' }, '2.47'],
      [{ 'openstack-api-version': 'identity 3.1, compute 2.3' }, '2.3'],
      [{ 'x-openstack-nova-api-version': '2.26' }, '2.26'],
      [{ 'x-openstack-nova-api-version': '2.26', 'openstack-api-version': 'compute 2.60' }, '2.60'],
      [{ 'openstack-api-version': 'compute latest' }, '2.93'],
      [{ 'openstack-api-version': 'volume 3.70' }, '2.1'],
    ] as const) {
      const answer = await lab.call('GET', '/flavors', { headers });
      assert.equal(answer.headers['openstack-api-version'], `compute ${expected}`);
      assert.equal(answer.headers['x-openstack-nova-api-version'], expected);
      assert.match(String(answer.headers.vary), /OpenStack-API-Version.*X-OpenStack-Nova-API-Version/);
    }
  });

  it('that are not served are refused', async () => {
    for (const version of ['2.0', '2.94', '3.1', '1.1']) {
      const { status, body } = await lab.call('GET', '/flavors', { version });
      assert.equal(status, 406);
      assert.equal(
        body.computeFault.message,
        `Version ${version} is not supported by the API. Minimum is 2.1 and maximum is 2.93.`,
      );
    }
    for (const version of ['2', '2.x', '2.01', 'newest']) {
      const { status, body } = await lab.call('GET', '/flavors', { version });
      assert.equal(status, 400);
      assert.match(body.badRequest.message, /^API Version String .* is of invalid format/);
    }
  });

  it('hide what they do not have yet, and what they have not any more', async () => {
    const id = await createActive();
    assert.equal((await lab.call('GET', `/servers/${id}/tags`, { version: '2.25' })).status, 404);
    assert.equal((await lab.call('GET', `/servers/${id}/tags`, { version: '2.26' })).status, 200);
    const body = { flavor: { description: 'x' } };
    assert.equal((await lab.call('PUT', '/flavors/1', { as: 'admin', version: '2.54', body })).status, 404);
    assert.equal((await act(id, { 'os-getSerialConsole': { type: 'serial' } }, { version: '2.6' })).status, 404);
  });
});

describe('every endpoint', () => {
  const endpoints: ['GET' | 'POST' | 'PUT' | 'DELETE', string, object?][] = [
    ['GET', ''],
    ['PUT', '', { server: { name: 'mine' } }],
    ['DELETE', ''],
    ['GET', '/metadata'],
    ['POST', '/metadata', { metadata: { a: 'b' } }],
    ['PUT', '/metadata', { metadata: { a: 'b' } }],
    ['GET', '/metadata/k'],
    ['PUT', '/metadata/k', { meta: { k: 'v' } }],
    ['DELETE', '/metadata/k'],
    ['GET', '/tags'],
    ['PUT', '/tags', { tags: ['a'] }],
    ['DELETE', '/tags'],
    ['GET', '/tags/t'],
    ['PUT', '/tags/t'],
    ['DELETE', '/tags/t'],
    ['GET', '/ips'],
    ['GET', '/os-interface'],
    ['GET', '/os-volume_attachments'],
    ['GET', '/os-security-groups'],
    ['POST', '/remote-consoles', { remote_console: { protocol: 'serial', type: 'serial' } }],
    ['POST', '/action', { lock: null }],
    ['POST', '/action', { unlock: null }],
    ['POST', '/action', { forceDelete: null }],
    ['POST', '/action', { rescue: null }],
    ['POST', '/action', { reboot: { type: 'HARD' } }],
    ['POST', '/action', { 'os-getConsoleOutput': {} }],
    ...['os-start', 'os-stop', 'suspend', 'resume', 'pause', 'unpause'].map((name): ['POST', string, object] => [
      'POST',
      '/action',
      { [name]: null },
    ]),
  ];

  it('knows nothing of another project’s server, and changes nothing of it', async () => {
    const id = await createActive({ metadata: { k: 'v' }, tags: ['t'] });
    const before = await show(id);
    const acts = lab.operations.acts.length;
    for (const [method, path, body] of endpoints) {
      const answer = await lab.call(method, `/servers/${id}${path}`, { as: 'stranger', version: '2.93', body });
      assert.equal(answer.status, 404, `${method} ${path} ${JSON.stringify(body)}: ${JSON.stringify(answer.body)}`);
      assert.equal(answer.body.itemNotFound.message, `Instance ${id} could not be found.`);
    }
    assert.deepEqual(await show(id), before);
    assert.equal(lab.operations.acts.length, acts);
    const list = await lab.call('GET', '/servers', { as: 'stranger' });
    assert.deepEqual(list.body, { servers: [] });
  });

  it('lets a reader read and nothing else', async () => {
    const id = await createActive({ metadata: { k: 'v' }, tags: ['t'] });
    for (const [method, path, body] of endpoints) {
      const answer = await lab.call(method, `/servers/${id}${path}`, { as: 'reader', version: '2.93', body });
      if (method === 'GET') assert.ok([200, 204].includes(answer.status), `${path}: ${answer.status}`);
      else assert.equal(answer.status, 403, `${method} ${path}: ${answer.status}`);
    }
    const body = { server: { name: 'x', imageRef: image, flavorRef: '1' } };
    assert.equal((await lab.call('POST', '/servers', { as: 'reader', body })).status, 403);
  });

  it('asks for a token', async () => {
    for (const [method, path, body] of [...endpoints, ['GET', '/../../flavors'] as const]) {
      const answer = await lab.call(method, `/servers/x${path}`, { as: null, body });
      assert.equal(answer.status, 401);
      assert.equal(answer.body.error.code, 401);
    }
  });

  it('answers what no server has with 404', async () => {
    for (const id of ['9223372036854775808', '-1', 'a%00b', '00000000-0000-4000-8000-000000000000', '%E0%A4']) {
      for (const [method, path, body] of endpoints) {
        const { status } = await lab.call(method, `/servers/${id}${path}`, { version: '2.93', body });
        // What is no text, or text that no name can hold, is refused before it is looked for.
        const expected = id === 'a%00b' || id === '%E0%A4' ? 400 : 404;
        assert.equal(status, expected, `${method} ${id}${path}`);
      }
    }
  });

  it('says in Nova’s shape what does not exist', async () => {
    const unknown = await lab.call('GET', '/no-such-thing');
    assert.deepEqual([unknown.status, unknown.body.itemNotFound.code], [404, 404]);
    const method = await lab.call('PUT', '/servers');
    assert.deepEqual([method.status, method.body.badMethod.code], [405, 405]);
  });
});

describe('creating a server', () => {
  it('answers with what a client needs, and shows it in BUILD', async () => {
    const answer = await create({ adminPass: 'secret-1', security_groups: [{ name: 'web' }] });
    assert.equal(answer.status, 202);
    const { id, links, adminPass, security_groups } = answer.body.server;
    assert.equal(answer.headers.location, links[0].href);
    assert.deepEqual([adminPass, security_groups], ['secret-1', [{ name: 'web' }]]);
    const server = await show(id);
    assert.equal(server.status, 'BUILD');
    assert.equal(server['OS-EXT-STS:task_state'], 'scheduling');
    assert.equal(server['OS-EXT-STS:power_state'], 0);
    assert.equal(server.config_drive, '');
    assert.equal(server.image.id, image);
    assert.match(server.created, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  it('brings user data in by a config drive', async () => {
    const userData = Buffer.from('#!/bin/sh\n').toString('base64');
    const { body } = await create({ user_data: userData, description: 'd', tags: ['b', 'a'], metadata: { k: 'v' } });
    const server = await show(body.server.id, '2.93', 'admin');
    assert.equal(server.config_drive, 'True');
    assert.equal(server['OS-EXT-SRV-ATTR:user_data'], userData);
    assert.deepEqual([server.tags, server.description, server.metadata], [['a', 'b'], 'd', { k: 'v' }]);
    const request = lab.operations.requests.at(-1);
    assert.deepEqual([request?.userData, request?.configDrive], [userData, true]);
  });

  it('takes networks as the microversion has them', async () => {
    const networkOf = async (fields: object, version: string) => {
      const answer = await create(fields, version);
      return answer.status === 202 ? lab.operations.requests.at(-1)?.network : answer.status;
    };
    assert.equal(await networkOf({}, '2.1'), 'none');
    assert.equal(await networkOf({ networks: [] }, '2.1'), 'none');
    assert.equal(await networkOf({ networks: 'auto' }, '2.1'), 400);
    assert.equal(await networkOf({ networks: undefined }, '2.37'), 400);
    assert.equal(await networkOf({ networks: 'none' }, '2.37'), 'none');
    assert.equal(await networkOf({ networks: 'auto' }, '2.37'), 'user');
    assert.equal(await networkOf({ networks: [{ uuid: image }] }, '2.37'), 400);
  });

  it('creates several at once under one reservation', async () => {
    const answer = await create({ name: 'many', min_count: 2, max_count: '3', return_reservation_id: true });
    assert.deepEqual(Object.keys(answer.body), ['reservation_id']);
    const list = await lab.call('GET', `/servers/detail?name=^many&sort_key=display_name&sort_dir=asc`);
    assert.deepEqual(
      list.body.servers.map((server: { name: string }) => server.name),
      ['many-1', 'many-2', 'many-3'],
    );
    assert.equal(
      (await create({ min_count: 3, max_count: 2 })).body.badRequest.message,
      'min_count must be <= max_count',
    );
    assert.equal((await create({ max_count: 1_000_000 })).status, 403);
  });

  it('undoes too few', async () => {
    lab.operations.failAfter = 1;
    const answer = await create({ name: 'few', min_count: 2, max_count: 2 });
    lab.operations.failAfter = null;
    assert.equal(answer.status, 500);
    assert.equal(answer.body.computeFault.code, 500);
    assert.equal(lab.operations.acts.at(-1)?.action, 'delete');
  });

  it('refuses an image that is not there, not ready or too large', async () => {
    const messageOf = async (fields: object) => {
      const answer = await create(fields);
      assert.equal(answer.status, 400, JSON.stringify(answer.body));
      return answer.body.badRequest.message;
    };
    const foreign = await addImage(lab.db, lab.projects.two);
    const queued = await addImage(lab.db, lab.projects.one, { status: 'queued' });
    const big = await addImage(lab.db, lab.projects.one, { virtualSizeBytes: 3 * GIB });
    const minDisk = await addImage(lab.db, lab.projects.one, { minDiskGib: 5 });
    const minRam = await addImage(lab.db, lab.projects.one, { minRamMib: 1024 });
    assert.equal(await messageOf({ imageRef: foreign }), 'Can not find requested image');
    assert.equal(await messageOf({ imageRef: queued }), `Image ${queued} is not active.`);
    assert.equal(
      await messageOf({ imageRef: big }),
      `Flavor's disk is too small for requested image. Flavor disk is ${2 * GIB} bytes, image is ${3 * GIB} bytes.`,
    );
    assert.match(await messageOf({ imageRef: minDisk }), /^Flavor's disk is smaller than the minimum size/);
    assert.equal(await messageOf({ imageRef: minRam }), "Flavor's memory is too small for requested image.");
    const zero = await addFlavor('zero-disk', { disk: 0 });
    assert.equal((await create({ imageRef: big, flavorRef: zero })).status, 202);
  });

  it('boots from an image, however a client spells that', async () => {
    const device = { uuid: image, boot_index: 0, source_type: 'image', destination_type: 'local' };
    assert.equal((await create({ block_device_mapping_v2: [{ ...device, delete_on_termination: true }] })).status, 202);
    assert.match((await create({ imageRef: '' })).body.badRequest.message, /^Invalid imageRef provided/);
  });

  it('refuses what is not served rather than pass over it', async () => {
    for (const fields of [
      { key_name: 'mine' },
      { availability_zone: 'moon' },
      { trusted_image_certificates: ['00000000-0000-4000-8000-000000000000'] },
      { accessIPv4: '::1' },
      { user_data: 'not base64!' },
      { user_data: 'A'.repeat(65_536) },
      { flavorRef: 'no-such-flavor' },
      { flavorRef: 'a\0b' },
      { imageRef: 'no-uuid' },
    ]) {
      assert.equal((await create(fields)).status, 400, JSON.stringify(fields).slice(0, 99));
    }
    assert.equal((await create({ host: 'host-1' })).status, 403);
    const many = Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`k${i}`, 'v']));
    assert.equal((await create({ metadata: many })).status, 403);
  });

  it('refuses fields before their microversion', async () => {
    for (const [field, value, since] of [
      ['description', 'x', 19],
      ['tags', ['x'], 52],
      ['hostname', 'x', 90],
    ] as const) {
      assert.equal((await create({ [field]: value }, `2.${since - 1}`)).status, 400, field);
      assert.equal((await create({ [field]: value }, `2.${since}`)).status, 202, field);
    }
  });

  it('refuses wrong types, unknown fields and texts beyond measure, with 400 each', async () => {
    const megabyte = 'n'.repeat(1024 * 1024);
    for (const fields of [
      { name: megabyte },
      { name: '' },
      { name: ' padded ' },
      { name: 'nul\0' },
      { name: 'half \ud800' },
      { name: 7 },
      { name: ['x'] },
      { metadata: { k: megabyte } },
      { metadata: { k: 'nul\0' } },
      { metadata: { k: 'half \udc00' } },
      { metadata: { [megabyte]: 'v' } },
      { metadata: { 'bad/key': 'v' } },
      { metadata: [] },
      { description: megabyte },
      { tags: ['a,b'] },
      { tags: [''] },
      { tags: Array.from({ length: 51 }, (_, i) => `t${i}`) },
      { config_drive: 'maybe' },
      { min_count: 0 },
      { min_count: -1 },
      { max_count: 2 ** 40 },
      { max_count: '99999999999' },
      { unknown: true },
      { networks: 'some' },
      { networks: [{ unknown: 1 }] },
      { hostname: 'no spaces' },
      { flavorRef: null },
    ]) {
      const { status, body } = await create(fields);
      assert.equal(status, 400, JSON.stringify(fields).slice(0, 99));
      assert.ok(body.badRequest.message.length < 1000);
    }
    for (const body of ['', [], { server: null }, {}, { server: {}, extra: 1 }]) {
      assert.equal((await lab.call('POST', '/servers', { body })).status, 400, JSON.stringify(body));
    }
  });
});

describe('encryption intent', () => {
  const withSpecs = async (name: string, specs: object) => {
    const id = await addFlavor(name);
    const path = `/flavors/${id}/os-extra_specs`;
    assert.equal((await lab.call('POST', path, { as: 'admin', body: { extra_specs: specs } })).status, 200);
    return id;
  };
  const imageWith = (properties: Record<string, string>) => addImage(lab.db, lab.projects.one, { properties });

  it('comes from the flavor or the image', async () => {
    const luks = await withSpecs('luks', {
      'hw:ephemeral_encryption': 'true',
      'hw:ephemeral_encryption_format': 'luks',
    });
    const byImage = await imageWith({ hw_ephemeral_encryption: 'True' });
    for (const [fields, intent] of [
      [{}, { encrypted: null, format: null }],
      [{ flavorRef: luks }, { encrypted: true, format: 'luks' }],
      [{ imageRef: byImage }, { encrypted: true, format: null }],
      [
        { flavorRef: luks, imageRef: byImage },
        { encrypted: true, format: 'luks' },
      ],
    ] as const) {
      assert.equal((await create(fields)).status, 202);
      assert.deepEqual(lab.operations.requests.at(-1)?.intent, intent);
    }
  });

  it('is refused with 400 when flavor and image contradict each other, or a value is none', async () => {
    const luks = await withSpecs('luks-2', {
      'hw:ephemeral_encryption': 'yes',
      'hw:ephemeral_encryption_format': 'luks',
    });
    const odd = await withSpecs('odd', {
      'hw:ephemeral_encryption': 'true',
      'hw:ephemeral_encryption_format': 'rot13',
    });
    const made = lab.operations.requests.length;
    for (const fields of [
      { flavorRef: luks, imageRef: await imageWith({ hw_ephemeral_encryption: 'false' }) },
      { flavorRef: luks, imageRef: await imageWith({ hw_ephemeral_encryption_format: 'plain' }) },
      { flavorRef: odd },
      { imageRef: await imageWith({ hw_ephemeral_encryption: 'perhaps' }) },
    ]) {
      const answer = await create(fields);
      assert.equal(answer.status, 400, JSON.stringify(answer.body));
      assert.match(answer.body.badRequest.message, /ephemeral_encryption/);
    }
    assert.equal(lab.operations.requests.length, made);
  });

  it('is checked on the flavor from 2.86 on', async () => {
    const path = `/flavors/${await addFlavor('checked')}/os-extra_specs`;
    const set = (specs: object, version: string) =>
      lab.call('POST', path, { as: 'admin', version, body: { extra_specs: specs } });
    for (const specs of [
      { 'hw:ephemeral_encryption': 'perhaps' },
      { 'hw:ephemeral_encryption_format': 'rot13' },
      { 'hw:ephemeral_encryptoin': 'true' },
    ]) {
      assert.equal((await set(specs, '2.85')).status, 200);
      assert.equal((await set(specs, '2.86')).status, 400);
    }
    assert.equal((await set({ 'our:own': 'x', plain: 'y', 'hw:cpu_policy': 'shared' }, '2.86')).status, 200);
  });
});

describe('actions', () => {
  it('are accepted once: of two at once the other conflicts', async () => {
    const id = await createActive();
    const answers = await Promise.all([act(id, { 'os-stop': null }), act(id, { 'os-stop': null })]);
    assert.deepEqual(answers.map(({ status }) => status).sort(), [202, 409]);
    const refused = answers.find(({ status }) => status === 409);
    assert.equal(
      refused?.body.conflictingRequest.message,
      `Cannot 'stop' instance ${id} while it is in task_state powering-off`,
    );
  });

  it('show their task and the state they end in', async () => {
    const id = await createActive();
    for (const [body, task, end, status] of [
      [{ suspend: null }, 'suspending', { vm_state: 'suspended', power_state: 'shutdown' }, 'SUSPENDED'],
      [{ resume: null }, 'resuming', { vm_state: 'active', power_state: 'running' }, 'ACTIVE'],
      [{ pause: null }, 'pausing', { vm_state: 'paused', power_state: 'paused' }, 'PAUSED'],
      [{ unpause: null }, 'unpausing', { vm_state: 'active', power_state: 'running' }, 'ACTIVE'],
      [{ reboot: { type: 'SOFT' } }, 'rebooting', { vm_state: 'active' }, 'ACTIVE'],
      [{ reboot: { type: 'hard' } }, 'rebooting_hard', { vm_state: 'active' }, 'ACTIVE'],
      [{ 'os-stop': null }, 'powering-off', { vm_state: 'stopped', power_state: 'shutdown' }, 'SHUTOFF'],
      [{ 'os-start': null }, 'powering-on', { vm_state: 'active', power_state: 'running' }, 'ACTIVE'],
    ] as const) {
      assert.equal((await act(id, body)).status, 202, JSON.stringify(body));
      assert.equal((await show(id))['OS-EXT-STS:task_state'], task);
      await lab.operations.end(id, end);
      const server = await show(id);
      assert.deepEqual([server.status, server['OS-EXT-STS:task_state']], [status, null]);
    }
  });

  it('in the wrong state conflict', async () => {
    const id = await createActive();
    for (const body of [{ 'os-start': null }, { resume: null }, { unpause: null }]) {
      const answer = await act(id, body);
      assert.equal(answer.status, 409);
      assert.match(answer.body.conflictingRequest.message, /while it is in vm_state active$/);
    }
  });

  it('that are none are refused, those that are not served named so', async () => {
    const id = await createActive();
    const none = await act(id, { explode: null });
    assert.deepEqual([none.status, none.body.badRequest.message], [400, 'There is no such action: explode']);
    assert.equal((await act(id, { __proto__: null, constructor: null })).status, 400);
    for (const body of [{}, { 'os-start': null, 'os-stop': null }, [], { reboot: {} }, { reboot: { type: 'X' } }]) {
      assert.equal((await act(id, body)).status, 400, JSON.stringify(body));
    }
    for (const name of ['createBackup', 'migrate', 'os-getVNCConsole']) {
      const answer = await act(id, { [name]: {} });
      assert.deepEqual([answer.status, answer.body.notImplemented.code], [501, 501]);
    }
  });

  it('leave a locked server alone, unless an admin asks', async () => {
    const id = await createActive();
    const lock = { lock: { locked_reason: 'audit' } };
    assert.equal((await act(id, lock, { version: '2.72' })).status, 400);
    assert.equal((await act(id, lock, { version: '2.73' })).status, 202);
    const server = await show(id);
    assert.deepEqual([server.locked, server.locked_reason], [true, 'audit']);
    const refused = await act(id, { 'os-stop': null });
    assert.deepEqual([refused.status, refused.body.conflictingRequest.message], [409, `Instance ${id} is locked`]);
    assert.equal((await lab.call('DELETE', `/servers/${id}`)).status, 409);
    assert.equal((await act(id, { unlock: null })).status, 202);
    assert.equal((await act(id, { lock: null }, { as: 'admin' })).status, 202);
    assert.equal((await act(id, { unlock: null })).status, 403);
    assert.equal((await act(id, { pause: null }, { as: 'admin' })).status, 202);
    assert.equal((await act(id, { unlock: null }, { as: 'admin' })).status, 202);
    assert.equal((await show(id)).locked, false);
  });

  it('let an admin overrule a state, but not an operation under way', async () => {
    const id = await createActive();
    const reset = { 'os-resetState': { state: 'error' } };
    assert.equal((await act(id, reset)).status, 403);
    assert.equal((await act(id, { 'os-resetState': { state: 'paused' } }, { as: 'admin' })).status, 400);
    assert.equal((await act(id, reset, { as: 'admin' })).status, 202);
    assert.equal((await show(id)).status, 'ERROR');
    assert.equal((await act(id, { 'os-stop': null })).status, 202);
    assert.equal((await act(id, reset, { as: 'admin' })).status, 409);
  });

  it('give the console’s last lines', async () => {
    const building = (await create()).body.server.id;
    assert.equal((await act(building, { 'os-getConsoleOutput': {} })).status, 409);
    const id = await createActive();
    lab.operations.consoleText = 'one\r\ntw\x1b[0mo\nthree\n';
    const outputOf = async (parameters: object) => (await act(id, { 'os-getConsoleOutput': parameters })).body.output;
    assert.equal(await outputOf({}), 'one\r\ntw[0mo\nthree\n');
    assert.equal(await outputOf({ length: 2 }), 'tw[0mo\nthree\n');
    assert.equal(await outputOf({ length: '1' }), 'three\n');
    assert.equal(await outputOf({ length: null }), await outputOf({ length: -1 }));
    assert.equal(await outputOf({ length: 0 }), '');
    assert.equal((await act(id, { 'os-getConsoleOutput': { length: -2 } })).status, 400);
  });
});

describe('a server', () => {
  it('shows what the microversion has', async () => {
    const id = await createActive({ hostname: 'web-1' });
    const fieldsSince: [string, number][] = [
      ['locked', 9],
      ['description', 19],
      ['tags', 26],
      ['trusted_image_certificates', 63],
      ['server_groups', 71],
      ['locked_reason', 73],
      ['OS-EXT-SRV-ATTR:hostname', 90],
    ];
    for (const [field, since] of fieldsSince) {
      assert.ok(!(field in (await show(id, `2.${since - 1}`))), `${field} before 2.${since}`);
      assert.ok(field in (await show(id, `2.${since}`)), `${field} in 2.${since}`);
    }
    assert.equal((await show(id))['OS-EXT-SRV-ATTR:hostname'], 'web-1');
    assert.deepEqual(Object.keys((await show(id, '2.46')).flavor), ['id', 'links']);
    assert.equal((await show(id, '2.47')).flavor.original_name, 'small');
  });

  it('tells its host only to an admin', async () => {
    const id = await createActive();
    const mine = await show(id);
    assert.equal(mine['OS-EXT-SRV-ATTR:host'], undefined);
    assert.ok(!JSON.stringify(mine).includes('host-1'));
    assert.match(mine.hostId, /^[0-9a-f]{56}$/);
    const theirs = await show(id, '2.93', 'admin');
    assert.equal(theirs['OS-EXT-SRV-ATTR:host'], 'host-1');
    assert.match(theirs['OS-EXT-SRV-ATTR:instance_name'], /^instance-[0-9a-f]{8}$/);
  });

  it('shows why it failed, also when it is not in error', async () => {
    const id = await createActive();
    await act(id, { 'os-stop': null });
    await lab.operations.end(id, { vm_state: 'stopped' });
    await act(id, { 'os-start': null });
    const fault = { code: 500, message: 'Reading the key failed', created: '2026-01-01T00:00:00Z' };
    await lab.operations.end(id, { vm_state: 'stopped', fault });
    const server = await show(id);
    assert.deepEqual([server.status, server.fault], ['SHUTOFF', fault]);
  });

  it('is renamed and described', async () => {
    const id = await createActive();
    const put = (fields: object, version = '2.93') =>
      lab.call('PUT', `/servers/${id}`, { version, body: { server: fields } });
    const answer = await put({
      name: 'db',
      description: 'data',
      accessIPv4: '192.0.2.1',
      'OS-DCF:diskConfig': 'MANUAL',
    });
    assert.equal(answer.status, 200);
    const { name, description, accessIPv4 } = answer.body.server;
    assert.deepEqual([name, description, accessIPv4], ['db', 'data', '192.0.2.1']);
    assert.equal((await put({ description: null })).body.server.description, null);
    for (const fields of [{ name: '' }, { status: 'ERROR' }, { accessIPv6: '192.0.2.1' }]) {
      assert.equal((await put(fields)).status, 400, JSON.stringify(fields));
    }
    assert.equal((await put({ description: 'x' }, '2.18')).status, 400);
  });

  it('is deleted once, and then is not there', async () => {
    const id = await createActive();
    const answers = await Promise.all([1, 2].map(() => lab.call('DELETE', `/servers/${id}`)));
    assert.deepEqual(
      answers.map(({ status }) => status),
      [204, 204],
    );
    assert.equal(lab.operations.acts.filter((one) => one.serverId === id).length, 1);
    assert.equal((await show(id))['OS-EXT-STS:task_state'], 'deleting');
    await lab.operations.end(id, { vm_state: 'deleted', terminated_at: new Date() });
    for (const method of ['GET', 'DELETE'] as const) {
      assert.equal((await lab.call(method, `/servers/${id}`)).status, 404);
    }
    assert.equal((await lab.call('GET', `/servers?uuid=${id}`)).body.servers.length, 0);
    assert.equal((await lab.call('GET', `/servers?uuid=${id}&deleted=1`, { as: 'admin' })).body.servers.length, 0);
    const everyone = `/servers?uuid=${id}&deleted=1&all_tenants=1`;
    assert.equal((await lab.call('GET', everyone, { as: 'admin' })).body.servers.length, 1);
  });

  it('has metadata', async () => {
    const id = await createActive({ metadata: { a: '1' } });
    const path = `/servers/${id}/metadata`;
    const call = async (method: 'GET' | 'POST' | 'PUT' | 'DELETE', rest: string, body?: object) => {
      const answer = await lab.call(method, `${path}${rest}`, { body });
      return [answer.status, answer.body];
    };
    assert.deepEqual(await call('POST', '', { metadata: { b: '2' } }), [200, { metadata: { a: '1', b: '2' } }]);
    assert.deepEqual(await call('PUT', '', { metadata: { c: '3' } }), [200, { metadata: { c: '3' } }]);
    assert.deepEqual(await call('PUT', '/d', { meta: { d: '4' } }), [200, { meta: { d: '4' } }]);
    assert.deepEqual(await call('GET', '/c'), [200, { meta: { c: '3' } }]);
    assert.equal((await call('PUT', '/d', { meta: { e: '4' } }))[0], 400);
    assert.equal((await call('PUT', '/d', { meta: { d: '4', e: '5' } }))[0], 400);
    assert.deepEqual(await call('DELETE', '/c'), [204, '']);
    assert.equal((await call('DELETE', '/c'))[0], 404);
    assert.equal((await call('GET', '/toString'))[0], 404);
    await Promise.all(['x', 'y', 'z'].map((key) => call('PUT', `/${key}`, { meta: { [key]: key } })));
    assert.deepEqual((await call('GET', ''))[1], { metadata: { d: '4', x: 'x', y: 'y', z: 'z' } });
  });

  it('has tags', async () => {
    const id = await createActive();
    const call = (method: 'GET' | 'PUT' | 'DELETE', rest: string, body?: object) =>
      lab.call(method, `/servers/${id}/tags${rest}`, { version: '2.26', body });
    assert.equal((await call('PUT', '/one')).status, 201);
    assert.equal((await call('PUT', '/one')).status, 204);
    assert.equal((await call('GET', '/one')).status, 204);
    assert.equal((await call('GET', '/two')).status, 404);
    assert.equal((await call('PUT', `/${'t'.repeat(61)}`)).status, 400);
    assert.deepEqual((await call('PUT', '', { tags: ['b', 'a', 'b'] })).body, { tags: ['a', 'b'] });
    assert.equal((await call('DELETE', '/a')).status, 204);
    assert.equal((await call('DELETE', '/a')).status, 404);
    assert.deepEqual((await call('GET', '')).body, { tags: ['b'] });
    assert.equal((await call('DELETE', '')).status, 204);
  });
});

describe('a list of servers', () => {
  const names = async (query: string, call: object = {}): Promise<string[]> => {
    const answer = await lab.call('GET', `/servers/detail?${query}`, call);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    return answer.body.servers.map((server: { name: string }) => server.name);
  };

  it('is filtered', async () => {
    const flavor = await addFlavor('listed');
    for (const name of ['list-a', 'list-b', 'list-c']) {
      await createActive({ name, flavorRef: flavor, tags: ['list', name] });
    }
    const ours = `flavor=${flavor}&sort_key=display_name&sort_dir=asc`;
    assert.deepEqual(await names(ours), ['list-a', 'list-b', 'list-c']);
    assert.deepEqual(await names(`${ours}&name=T-[bc]$`), ['list-b', 'list-c']);
    assert.deepEqual(await names(`${ours}&status=ACTIVE`), ['list-a', 'list-b', 'list-c']);
    assert.deepEqual(await names(`${ours}&status=shutoff`), []);
    assert.deepEqual(await names(`${ours}&tags=list,list-b`, { version: '2.26' }), ['list-b']);
    assert.deepEqual(await names(`${ours}&not-tags-any=list-b,list-c`, { version: '2.26' }), ['list-a']);
    assert.deepEqual(await names(`${ours}&changes-since=2999-01-01T00:00:00Z`), []);
    assert.deepEqual(await names(`${ours}&image=${image}&limit=0`), []);
    assert.deepEqual(await names(`${ours}&all_tenants=1&host=host-1`, { as: 'admin' }), ['list-a', 'list-b', 'list-c']);
    assert.deepEqual(await names(`${ours}&all_tenants&project_id=${lab.projects.two}`, { as: 'admin' }), []);
  });

  it('comes in pages that miss nothing and show nothing twice', async () => {
    const all = await names('sort_key=vm_state&sort_key=created_at');
    const paged: string[] = [];
    let next: string | null = '/servers/detail?limit=3&sort_key=vm_state&sort_key=created_at';
    while (next !== null) {
      const { body } = await lab.call('GET', next.replace(/^.*\/v2.1/, ''));
      paged.push(...body.servers.map((server: { name: string }) => server.name));
      next = body.servers_links?.[0].href ?? null;
    }
    assert.ok(all.length > 10);
    assert.deepEqual(paged, all);
  });

  it('refuses a query that cannot be understood', async () => {
    for (const query of [
      'limit=-1',
      'limit=x',
      'marker=nothing',
      'sort_key=password',
      'sort_dir=up',
      'changes-since=yesterday',
      'name=(',
      'name=%00',
      'all_tenants=perhaps',
    ]) {
      assert.equal((await lab.call('GET', `/servers?${query}`)).status, 400, query);
    }
    assert.equal((await lab.call('GET', '/servers?all_tenants=1')).status, 403);
    assert.equal((await lab.call('GET', '/servers?status=deleted')).status, 403);
    assert.deepEqual((await lab.call('GET', '/servers?status=odd')).body.servers, []);
    assert.equal((await lab.call('GET', '/servers?status=odd', { version: '2.38' })).status, 400);
    assert.equal((await lab.call('GET', '/servers?odd=1', { version: '2.74' })).status, 200);
    assert.equal((await lab.call('GET', '/servers?odd=1', { version: '2.75' })).status, 400);
  });

  it('does not start after another project’s server', async () => {
    const id = await createActive();
    assert.equal((await lab.call('GET', `/servers?marker=${id}`, { as: 'stranger' })).status, 400);
  });
});
