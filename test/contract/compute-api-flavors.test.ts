import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type Call, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

let lab: ComputeLab;
before(async () => {
  lab = await openComputeLab();
});
after(() => lab[Symbol.asyncDispose]());

const admin = { as: 'admin' } as const;
const create = (fields: object, call: Call = {}) =>
  lab.call('POST', '/flavors', { ...admin, ...call, body: { flavor: { ram: 64, vcpus: 1, disk: 1, ...fields } } });

describe('flavors', () => {
  it('are created and shown as the microversion has them', async () => {
    const made = await create({
      name: 'full',
      id: 'f1',
      swap: '512',
      'OS-FLV-EXT-DATA:ephemeral': 3,
      rxtx_factor: 2.5,
    });
    assert.equal(made.status, 200);
    const { links, ...flavor } = made.body.flavor;
    assert.deepEqual(flavor, {
      id: 'f1',
      name: 'full',
      ram: 64,
      vcpus: 1,
      disk: 1,
      swap: 512,
      'OS-FLV-EXT-DATA:ephemeral': 3,
      'OS-FLV-DISABLED:disabled': false,
      'os-flavor-access:is_public': true,
      rxtx_factor: 2.5,
    });
    assert.equal(links[0].href, 'http://cloud.example:8774/compute/v2.1/flavors/f1');
    const show = async (version: string) => (await lab.call('GET', '/flavors/f1', { version })).body.flavor;
    assert.ok(!('description' in (await show('2.54'))));
    assert.equal((await show('2.55')).description, null);
    assert.ok(!('extra_specs' in (await show('2.60'))));
    assert.deepEqual((await show('2.61')).extra_specs, {});
    const noSwap = (await create({ name: 'no-swap', id: 'f2' })).body.flavor;
    assert.equal(noSwap.swap, '');
    assert.equal((await lab.call('GET', '/flavors/f2', { version: '2.75' })).body.flavor.swap, 0);
  });

  it('get an id when none is given', async () => {
    for (const [name, id] of [
      ['auto-1', 'auto'],
      ['auto-2', null],
      ['auto-3', undefined],
    ]) {
      assert.match((await create({ name, id })).body.flavor.id, /^[0-9a-f-]{36}$/);
    }
    assert.equal((await create({ name: 'number', id: 42 })).body.flavor.id, '42');
  });

  it('are told apart by id and by name', async () => {
    await create({ name: 'first', id: 'i1' });
    const sameName = await create({ name: 'first', id: 'i2' });
    assert.equal(sameName.body.conflictingRequest.message, 'Flavor with name first already exists.');
    const sameId = await create({ name: 'second', id: 'i1' });
    assert.equal(sameId.body.conflictingRequest.message, 'Flavor with ID i1 already exists.');
    const atOnce = await Promise.all([1, 2, 3].map(() => create({ name: 'race', id: 'race' })));
    assert.deepEqual(atOnce.map(({ status }) => status).sort(), [200, 409, 409]);
  });

  it('of absurd size, wrong type or unknown fields are refused', async () => {
    for (const fields of [
      { ram: 0 },
      { ram: 2 ** 31 },
      { ram: '2147483648' },
      { ram: -1 },
      { ram: 1.5 },
      { vcpus: 0 },
      { vcpus: 'many' },
      { disk: -1 },
      { disk: 2 ** 40 },
      { swap: -1 },
      { rxtx_factor: 0 },
      { id: 'a/b' },
      { id: ' padded ' },
      { id: '' },
      { name: '' },
      { name: 'n'.repeat(256) },
      { name: 'n'.repeat(1024 * 1024) },
      { name: 'nul\0' },
      { 'os-flavor-access:is_public': 'maybe' },
      { color: 'red' },
    ]) {
      const answer = await create({ name: 'odd', id: 'odd', ...fields });
      assert.equal(answer.status, 400, JSON.stringify(fields).slice(0, 99));
    }
    assert.equal((await create({ name: 'max', ram: 2 ** 31 - 1, vcpus: '2147483647', disk: 2 ** 31 - 1 })).status, 200);
    assert.equal((await create({ name: 'd', description: 'x' }, { version: '2.54' })).status, 400);
    assert.equal((await create({ name: 'd', description: 'x' }, { version: '2.55' })).status, 200);
  });

  it('are changed and deleted by an admin only', async () => {
    await create({ name: 'brief', id: 'brief' });
    const version = '2.55';
    const body = { flavor: { description: 'for tests' } };
    assert.equal((await lab.call('PUT', '/flavors/brief', { version, body })).status, 403);
    const changed = await lab.call('PUT', '/flavors/brief', { ...admin, version, body });
    assert.equal(changed.body.flavor.description, 'for tests');
    assert.equal((await lab.call('DELETE', '/flavors/brief')).status, 403);
    assert.equal((await lab.call('DELETE', '/flavors/brief', admin)).status, 202);
    const gone = await lab.call('DELETE', '/flavors/brief', admin);
    assert.deepEqual([gone.status, gone.body.itemNotFound.message], [404, 'Flavor brief could not be found.']);
    assert.equal((await lab.call('GET', '/flavors/a%00b')).status, 400);
  });

  it('are listed as asked', async () => {
    await lab.db.deleteFrom('flavors').execute();
    for (const [name, id, ram, disk] of [
      ['s', '1', 128, 1],
      ['m', '2', 256, 5],
      ['l', '3', 512, 5],
    ]) {
      await create({ name, id, ram, disk });
    }
    const ids = async (query: string, path = '/flavors') =>
      (await lab.call('GET', `${path}?${query}`)).body.flavors.map((flavor: { id: string }) => flavor.id);
    assert.deepEqual(await ids(''), ['1', '2', '3']);
    assert.deepEqual(await ids('minRam=200'), ['2', '3']);
    assert.deepEqual(await ids('minDisk=5&minRam=500', '/flavors/detail'), ['3']);
    assert.deepEqual(await ids('sort_key=memory_mb&sort_dir=desc'), ['3', '2', '1']);
    assert.deepEqual(await ids('sort_key=name'), ['3', '2', '1']);
    assert.deepEqual(await ids('marker=1&limit=1'), ['2']);
    const page = await lab.call('GET', '/flavors/detail?limit=2');
    assert.match(page.body.flavors_links[0].href, /\/compute\/v2\.1\/flavors\/detail\?limit=2&marker=2$/);
    for (const query of [
      'limit=-1',
      'limit=x',
      'marker=9',
      'minRam=x',
      'sort_key=x',
      'sort_dir=x',
      'sort_key=toString',
    ]) {
      assert.equal((await lab.call('GET', `/flavors?${query}`)).status, 400, query);
    }
    assert.equal((await lab.call('GET', '/flavors?is_public=perhaps', admin)).status, 400);
  });
});

describe('flavors that are not public', () => {
  const seenBy = async (as: 'member' | 'stranger' | 'admin', query = '') =>
    (await lab.call('GET', `/flavors${query}`, { as })).body.flavors.map((flavor: { id: string }) => flavor.id);
  const access = (action: string, tenant: string, call: Call = {}) =>
    lab.call('POST', '/flavors/private/action', { ...admin, ...call, body: { [action]: { tenant } } });

  it('are seen by the projects that were given them, and by admins that ask', async () => {
    await create({ name: 'private', id: 'private', 'os-flavor-access:is_public': 'False' });
    assert.ok(!(await seenBy('member')).includes('private'));
    assert.equal((await lab.call('GET', '/flavors/private')).status, 404);
    assert.equal((await lab.call('GET', '/flavors/private/os-extra_specs')).status, 404);
    assert.ok((await seenBy('admin', '?is_public=None')).includes('private'));
    assert.deepEqual(await seenBy('admin', '?is_public=false'), ['private']);
    const granted = await access('addTenantAccess', lab.projects.one);
    assert.deepEqual(granted.body.flavor_access, [{ flavor_id: 'private', tenant_id: lab.projects.one }]);
    assert.ok((await seenBy('member')).includes('private'));
    assert.ok(!(await seenBy('stranger')).includes('private'));
    assert.equal((await access('addTenantAccess', lab.projects.one)).status, 409);
    assert.equal((await lab.call('GET', '/flavors/private/os-flavor-access')).status, 403);
    const list = await lab.call('GET', '/flavors/private/os-flavor-access', admin);
    assert.deepEqual(list.body, granted.body);
    assert.equal((await access('removeTenantAccess', lab.projects.two)).status, 404);
    assert.deepEqual((await access('removeTenantAccess', lab.projects.one)).body.flavor_access, []);
    assert.equal((await access('addTenantAccess', lab.projects.one, { as: 'member' })).status, 403);
    assert.equal((await access('addTenantAccess', "'; drop table flavors")).status, 400);
    assert.equal((await access('shareTenantAccess', lab.projects.one)).status, 400);
  });

  it('and public ones have no access list', async () => {
    await create({ name: 'public', id: 'public' });
    const list = await lab.call('GET', '/flavors/public/os-flavor-access', admin);
    assert.deepEqual(
      [list.status, list.body.itemNotFound.message],
      [404, 'Access list not available for public flavors.'],
    );
    const body = { addTenantAccess: { tenant: lab.projects.one } };
    assert.equal((await lab.call('POST', '/flavors/public/action', { ...admin, version: '2.7', body })).status, 409);
  });
});

describe('extra specs', () => {
  const path = '/flavors/specs/os-extra_specs';

  it('are set, read, changed and unset', async () => {
    await create({ name: 'specs', id: 'specs' });
    const set = await lab.call('POST', path, { ...admin, body: { extra_specs: { a: 'x', b: 7, c: true } } });
    assert.deepEqual(set.body, { extra_specs: { a: 'x', b: '7', c: 'True' } });
    assert.deepEqual((await lab.call('GET', path)).body, set.body);
    assert.deepEqual((await lab.call('PUT', `${path}/a`, { ...admin, body: { a: 'y' } })).body, { a: 'y' });
    assert.deepEqual((await lab.call('GET', `${path}/a`)).body, { a: 'y' });
    assert.equal((await lab.call('DELETE', `${path}/a`, admin)).status, 200);
    const gone = await lab.call('DELETE', `${path}/a`, admin);
    assert.equal(gone.body.itemNotFound.message, 'Flavor specs has no extra specs with key a.');
    assert.equal((await lab.call('GET', `${path}/toString`)).status, 404);
  });

  it('of wrong form are refused, and only an admin sets them', async () => {
    for (const specs of [{ 'a/b': 'x' }, { a: null }, { a: {} }, { a: 'x'.repeat(256) }, { a: 'nul\0' }, { '': 'x' }]) {
      const answer = await lab.call('POST', path, { ...admin, body: { extra_specs: specs } });
      assert.equal(answer.status, 400, JSON.stringify(specs));
    }
    for (const body of [{ b: 'x' }, { a: 'x', b: 'y' }, {}]) {
      assert.equal((await lab.call('PUT', `${path}/a`, { ...admin, body })).status, 400, JSON.stringify(body));
    }
    assert.equal((await lab.call('POST', path, { body: { extra_specs: { a: 'x' } } })).status, 403);
    assert.equal((await lab.call('PUT', `${path}/a`, { body: { a: 'x' } })).status, 403);
    assert.equal((await lab.call('DELETE', `${path}/b`)).status, 403);
    const nowhere = await lab.call('POST', '/flavors/none/os-extra_specs', {
      ...admin,
      body: { extra_specs: { a: 'x' } },
    });
    assert.equal(nowhere.status, 404);
  });
});
