import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { holdVolumeType } from '#db/volume-types.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';

let lab: BlockStorageLab;
before(async () => {
  lab = await openBlockStorageLab();
});
after(() => lab[Symbol.asyncDispose]());

const nobody = randomUUID();
const luks = { provider: 'luks', control_location: 'front-end', cipher: 'aes-xts-plain64', key_size: 256 };

describe('the block storage API', () => {
  it('lists its one version with 300, and shows it', async () => {
    const list = await lab.raw('GET', '/volume/', { as: null });
    const [version] = list.body.versions;
    assert.equal(list.status, 300);
    assert.deepEqual([version.id, version.version, version.min_version], ['v3.0', '3.70', '3.0']);
    const shown = await lab.raw('GET', '/volume/v3/', { as: null });
    assert.deepEqual([shown.status, shown.body], [200, list.body]);
  });

  it('answers in the microversion that is asked for, of the service volume', async () => {
    const ask = async (header: string | null) => {
      const headers = header === null ? {} : { 'openstack-api-version': header };
      const { status, headers: answered } = await lab.call('GET', '/types', { headers });
      return [status, answered['openstack-api-version']];
    };
    assert.deepEqual(await ask(null), [200, 'volume 3.0']);
    assert.deepEqual(await ask('volume 3.42'), [200, 'volume 3.42']);
    assert.deepEqual(await ask('compute 2.90, volume latest'), [200, 'volume 3.70']);
    assert.deepEqual(await ask('compute 2.90'), [200, 'volume 3.0']);
    assert.equal((await ask('volume 3.71'))[0], 406);
    assert.equal((await ask('volume three'))[0], 400);
  });

  it('serves a project below its own path only, and an admin below any', async () => {
    const path = `/volume/v3/${lab.projects.two}/types`;
    const refused = await lab.raw('GET', path);
    assert.equal(refused.status, 400);
    assert.deepEqual(refused.body, { badRequest: { code: 400, message: 'Malformed request url' } });
    assert.equal((await lab.raw('GET', path, { as: 'stranger' })).status, 200);
    assert.equal((await lab.raw('GET', path, { as: 'admin' })).status, 200);
    assert.equal((await lab.raw('GET', path, { as: null })).status, 401);
  });

  it('ignores fields that a volume does not have, and refuses them from 3.53 on', async () => {
    const ask = async (version: string) => {
      const { status, body } = await lab.call('POST', '/volumes', {
        version,
        body: { volume: { size: 0, colour: 'blue' } },
      });
      assert.equal(status, 400);
      return body.badRequest.message;
    };
    assert.match(await ask('3.52'), /Volume size '0' must be an integer and greater than 0/);
    assert.match(await ask('3.53'), /'colour' was unexpected/);
  });

  it('is in the catalog of a token under both of its names, with the id of the project', async () => {
    const { body } = await lab.raw('GET', '/compute/../identity/v3/auth/catalog');
    const entries = body.catalog.filter(({ name }: { name: string }) => name === 'cinder');
    assert.deepEqual(entries.map(({ type }: { type: string }) => type).sort(), ['block-storage', 'volumev3']);
    for (const { endpoints } of entries) {
      assert.equal(endpoints[0].url, `http://cloud.example:8774/volume/v3/${lab.projects.one}`);
    }
  });
});

describe('volume types', () => {
  it('are created, shown, listed, changed and deleted by an admin alone', async () => {
    const asked = { name: 'gold', description: 'the best', extra_specs: { volume_backend_name: 'files' } };
    const created = await lab.admin('POST', '/types', { volume_type: asked });
    const { id, ...fields } = created.body.volume_type;
    assert.equal(created.status, 200);
    assert.deepEqual(fields, { ...asked, is_public: true, 'os-volume-type-access:is_public': true });
    const shown = await lab.admin('GET', `/types/${id}`);
    assert.deepEqual(shown.body.volume_type, { id, ...fields, qos_specs_id: null });
    const renamed = await lab.admin('PUT', `/types/${id}`, { volume_type: { name: 'silver', is_public: 'false' } });
    assert.deepEqual(renamed.body.volume_type, {
      ...{ id, name: 'silver', is_public: false },
      ...{ description: 'the best', extra_specs: asked.extra_specs },
    });
    for (const [method, path, body] of [
      ['POST', '/types', { volume_type: { name: 'mine' } }],
      ['PUT', `/types/${id}`, { volume_type: { name: 'mine' } }],
      ['DELETE', `/types/${id}`, undefined],
    ] as const) {
      assert.equal((await lab.call(method, path, { body })).status, 403, path);
    }
    assert.equal((await lab.admin('DELETE', `/types/${id}`)).status, 202);
    assert.deepEqual((await lab.admin('GET', `/types/${id}`)).body, {
      itemNotFound: { code: 404, message: `Volume type ${id} could not be found.` },
    });
    assert.equal((await lab.admin('DELETE', `/types/${id}`)).status, 404);
    assert.equal((await lab.admin('PUT', `/types/${id}`, { volume_type: { name: 'x' } })).status, 404);
  });

  it('have names of their own: a second of the same name is refused, created or renamed', async () => {
    const [one, two] = [await lab.addType(), await lab.addType()];
    const again = await lab.admin('POST', '/types', { volume_type: { name: one.name } });
    assert.deepEqual(
      [again.status, again.body.conflictingRequest.message],
      [409, `Volume Type ${one.name} already exists.`],
    );
    const renamed = await lab.admin('PUT', `/types/${two.id}`, { volume_type: { name: one.name } });
    assert.equal(renamed.status, 409);
    const same = await lab.admin('PUT', `/types/${two.id}`, { volume_type: { name: two.name } });
    assert.equal(same.status, 200);
  });

  it('are refused when a field is not what it should be', async () => {
    const { id } = await lab.addType();
    const bodies = [
      { name: '' },
      { name: '   ' },
      { name: 'x'.repeat(256) },
      { name: 7 },
      { description: 'no name' },
      { name: 'x', description: 'y'.repeat(256) },
      { name: 'x', extra_specs: { 'a key/': 7 } },
      { name: 'x', extra_specs: { ä: 'b' } },
      { name: 'x', 'os-volume-type-access:is_public': 'maybe' },
      { name: 'x', colour: 'blue' },
      { name: 'x', extra_specs: { 'nightlatch:clone_key': 'none' } },
    ];
    for (const volume_type of bodies) {
      assert.equal((await lab.admin('POST', '/types', { volume_type })).status, 400, JSON.stringify(volume_type));
    }
    for (const volume_type of [{}, { name: null }, { name: ' ' }, { is_public: 'maybe' }]) {
      assert.equal((await lab.admin('PUT', `/types/${id}`, { volume_type })).status, 400, JSON.stringify(volume_type));
    }
    assert.equal((await lab.admin('POST', '/types', null)).status, 400);
  });

  it('cannot be deleted while a volume that is not deleted is of it, in whichever project', async () => {
    const { id } = await lab.addType();
    const volume = await lab.addVolume(lab.projects.two, { typeId: id, status: 'error' });
    const refused = await lab.admin('DELETE', `/types/${id}`);
    assert.deepEqual([refused.status, refused.body.badRequest.message], [400, 'Target volume type is still in use.']);
    await lab.db.updateTable('volumes').set({ deleted_at: new Date() }).where('id', '=', volume.id).execute();
    assert.equal((await lab.admin('DELETE', `/types/${id}`)).status, 202);
  });

  it('cannot be deleted while a volume is being retyped to it', async () => {
    const { id } = await lab.addType();
    const volume = await lab.addVolume(lab.projects.two, { status: 'retyping' });
    const underWay = { id: 'retype-volume:1', name: 'retype-volume', input: { retype: { typeId: id } } };
    const write = (operation: string | null) =>
      lab.db.updateTable('volumes').set({ operation }).where('id', '=', volume.id).execute();
    await write(JSON.stringify(underWay));
    const refused = await lab.admin('DELETE', `/types/${id}`);
    assert.deepEqual([refused.status, refused.body.badRequest.message], [400, 'Target volume type is still in use.']);
    await write(null);
    assert.equal((await lab.admin('DELETE', `/types/${id}`)).status, 202);
  });

  it('have a default, which can be neither deleted nor renamed', async () => {
    const { body } = await lab.call('GET', '/types/default');
    assert.equal(body.volume_type.name, '__DEFAULT__');
    const { id } = body.volume_type;
    const deleted = await lab.admin('DELETE', `/types/${id}`);
    assert.deepEqual(
      [deleted.status, deleted.body.badRequest.message],
      [400, `The volume type ${id} is a default volume type and cannot be deleted.`],
    );
    assert.equal((await lab.admin('PUT', `/types/${id}`, { volume_type: { name: 'other' } })).status, 400);
    const described = await lab.admin('PUT', `/types/${id}`, { volume_type: { description: 'ours' } });
    assert.equal(described.body.volume_type.description, 'ours');
  });
});

describe('the list of volume types', () => {
  const names = async (query: string, as: 'admin' | 'member' = 'admin') => {
    const { body } = await lab.call('GET', `/types${query}`, { as });
    return body.volume_types.map(({ name }: { name: string }) => name);
  };

  it('holds public ones; for an admin also private ones, as is_public says', async () => {
    const open = await lab.addType();
    const shut = await lab.addType({ 'os-volume-type-access:is_public': false });
    const both = (list: string[]) => [list.includes(open.name), list.includes(shut.name)];
    assert.deepEqual(both(await names('')), [true, false]);
    assert.deepEqual(both(await names('?is_public=false')), [false, true]);
    assert.deepEqual(both(await names('?is_public=None')), [true, true]);
    assert.deepEqual(both(await names('?is_public=None', 'member')), [true, false]);
    assert.equal((await lab.admin('GET', '/types?is_public=maybe')).status, 400);
  });

  it('is filtered by extra specs, of which a member sees and asks only those that say what a volume can do', async () => {
    const extra_specs = { volume_backend_name: 'fast', multiattach: '<is> False' };
    const { id, name } = await lab.addType({ extra_specs });
    const find = (specs: string, as: 'admin' | 'member') => names(`?extra_specs=${encodeURIComponent(specs)}`, as);
    assert.deepEqual(await find("{'volume_backend_name': 'fast'}", 'admin'), [name]);
    assert.deepEqual(await find("{'volume_backend_name': 'fast', 'multiattach': '<is> False'}", 'admin'), [name]);
    assert.deepEqual(await find("{'volume_backend_name': 'slow'}", 'admin'), []);
    assert.deepEqual(await find("{u'volume_backend_name': u'fast'}", 'member'), []);
    assert.deepEqual(await find("{'multiattach': '<is> False'}", 'member'), [name]);
    assert.equal((await lab.admin('GET', '/types?extra_specs=fast')).status, 400);
    const shown = await lab.call('GET', `/types/${id}`);
    assert.deepEqual(shown.body.volume_type.extra_specs, { multiattach: '<is> False' });
    const listed = await lab.call('GET', `/types/${id}/extra_specs`);
    assert.deepEqual(listed.body, { extra_specs: { multiattach: '<is> False' } });
    assert.equal((await lab.call('GET', `/types/${id}/extra_specs/volume_backend_name`)).status, 404);
  });

  it('comes in pages, in the order asked for', async () => {
    for (const name of ['page-b', 'page-c', 'page-a']) await lab.addType({ name });
    const sorted = (await names('?sort=name:asc')).filter((name: string) => name.startsWith('page-'));
    assert.deepEqual(sorted, ['page-a', 'page-b', 'page-c']);
    const all = await names('?sort_key=name&sort_dir=desc');
    const page = await lab.admin('GET', '/types?sort_key=name&sort_dir=desc&limit=2');
    assert.deepEqual(
      page.body.volume_types.map(({ name }: { name: string }) => name),
      all.slice(0, 2),
    );
    const next = new URL(page.body.volume_type_links[0].href);
    const rest = await lab.raw('GET', `${next.pathname}${next.search}`, { as: 'admin' });
    assert.deepEqual(
      rest.body.volume_types.map(({ name }: { name: string }) => name),
      all.slice(2, 4),
    );
    assert.deepEqual(await names('?limit=0'), []);
    assert.deepEqual((await names('?offset=1&sort=name:desc'))[0], all[1]);
    for (const bad of ['limit=-1', 'limit=x', 'offset=-1', 'sort=colour', 'sort=name:up', 'sort=name&sort_key=name']) {
      assert.equal((await lab.admin('GET', `/types?${bad}`)).status, 400, bad);
    }
    assert.equal((await lab.admin('GET', `/types?marker=${nobody}`)).status, 404);
  });
});

describe('extra specs of a volume type', () => {
  it('are created, shown, changed and deleted, one by one', async () => {
    const { id } = await lab.addType({ extra_specs: { kept: 'yes' } });
    const path = `/types/${id}/extra_specs`;
    const created = await lab.admin('POST', path, { extra_specs: { a: '1', 'b:c': null } });
    assert.deepEqual([created.status, created.body], [200, { extra_specs: { a: '1', 'b:c': null } }]);
    const changed = await lab.admin('PUT', `${path}/a`, { a: '2' });
    assert.deepEqual([changed.status, changed.body], [200, { a: '2' }]);
    assert.deepEqual((await lab.admin('GET', path)).body, { extra_specs: { kept: 'yes', a: '2', 'b:c': null } });
    assert.deepEqual((await lab.admin('GET', `${path}/a`)).body, { a: '2' });
    assert.equal((await lab.admin('DELETE', `${path}/a`)).status, 202);
    const gone = await lab.admin('DELETE', `${path}/a`);
    const message = `Volume Type ${id} has no extra specs with key a.`;
    assert.deepEqual([gone.status, gone.body], [404, { itemNotFound: { code: 404, message } }]);
    assert.equal((await lab.admin('GET', `${path}/a`)).status, 404);
    assert.equal((await lab.admin('DELETE', `${path}/__proto__`)).status, 404);
  });

  it('are refused when they are not pairs of text, or not what the address says', async () => {
    const { id } = await lab.addType({ extra_specs: { spec1: 'val1' } });
    const path = `/types/${id}/extra_specs`;
    for (const body of [null, {}, { extra_specs: ['x'] }, { extra_specs: { 'a b': 'c' } }, { extra_specs: { a: 1 } }]) {
      assert.equal((await lab.admin('POST', path, body)).status, 400, JSON.stringify(body));
    }
    for (const [key, body] of [
      ['spec1', null],
      ['spec1', {}],
      ['spec1', { spec1: 'a', spec2: 'b' }],
      [nobody, { spec1: 'val2' }],
      ['nightlatch:clone_key', { 'nightlatch:clone_key': 'both' }],
    ] as const) {
      assert.equal((await lab.admin('PUT', `${path}/${key}`, body)).status, 400, JSON.stringify([key, body]));
    }
    const allowed = await lab.admin('POST', path, { extra_specs: { 'nightlatch:clone_key': 'volume-key' } });
    assert.equal(allowed.status, 200);
    assert.equal((await lab.call('POST', path, { body: { extra_specs: { a: 'b' } } })).status, 403);
  });

  it('of a type that is not there are not there', async () => {
    const path = `/types/${nobody}/extra_specs`;
    const answers = [
      await lab.admin('GET', path),
      await lab.admin('GET', `${path}/spec1`),
      await lab.admin('POST', path, { extra_specs: { spec2: 'val1' } }),
      await lab.admin('PUT', `${path}/spec1`, { spec1: 'val5' }),
      await lab.admin('DELETE', `${path}/spec1`),
    ];
    assert.deepEqual(
      answers.map(({ status }) => status),
      [404, 404, 404, 404, 404],
    );
  });

  it('stay as they are while a volume is of the type', async () => {
    const { id } = await lab.addType({ extra_specs: { a: '1' } });
    await lab.addVolume(lab.projects.two, { typeId: id });
    const path = `/types/${id}/extra_specs`;
    const answers = [
      await lab.admin('POST', path, { extra_specs: { b: '1' } }),
      await lab.admin('PUT', `${path}/a`, { a: '2' }),
      await lab.admin('DELETE', `${path}/a`),
    ];
    for (const { status, body } of answers) {
      assert.deepEqual([status, body.badRequest?.message], [400, 'Volume Type is currently in use.']);
    }
    assert.deepEqual((await lab.admin('GET', path)).body, { extra_specs: { a: '1' } });
  });
});

describe('the encryption of a volume type', () => {
  it('is created, shown, changed and deleted', async () => {
    const { id } = await lab.addType();
    const path = `/types/${id}/encryption`;
    assert.deepEqual((await lab.admin('GET', path)).body, {});
    const created = await lab.admin('POST', path, { encryption: { ...luks, key_size: '256' } });
    const { encryption_id, ...answered } = created.body.encryption;
    assert.equal(created.status, 200);
    assert.deepEqual(answered, { ...luks, volume_type_id: id });
    const { created_at, ...shown } = (await lab.admin('GET', path)).body;
    assert.match(created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$/);
    const rest = { updated_at: null, deleted: false, deleted_at: null };
    assert.deepEqual(shown, { ...luks, volume_type_id: id, encryption_id, ...rest });
    assert.deepEqual((await lab.admin('GET', `${path}/cipher`)).body, { cipher: luks.cipher });
    assert.equal((await lab.admin('GET', `${path}/colour`)).status, 404);
    const changed = await lab.admin('PUT', `${path}/provider`, { encryption: { provider: 'luks2', key_size: 512 } });
    assert.deepEqual([changed.status, changed.body], [200, { encryption: { provider: 'luks2', key_size: 512 } }]);
    const after = (await lab.admin('GET', path)).body;
    assert.deepEqual([after.provider, after.key_size, after.cipher], ['luks2', 512, luks.cipher]);
    assert.notEqual(after.updated_at, null);
    assert.equal((await lab.admin('DELETE', `${path}/provider`)).status, 202);
    assert.deepEqual((await lab.admin('GET', path)).body, {});
  });

  it('is one, and is there before it is changed', async () => {
    const { id } = await lab.addType();
    const path = `/types/${id}/encryption`;
    const missing = await lab.admin('DELETE', `${path}/${nobody}`);
    const message = `Volume type encryption for type ${id} does not exist.`;
    assert.deepEqual([missing.status, missing.body.itemNotFound?.message], [404, message]);
    assert.equal((await lab.admin('PUT', `${path}/${nobody}`, { encryption: { provider: 'luks' } })).status, 404);
    assert.equal((await lab.admin('POST', path, { encryption: luks })).status, 200);
    const second = await lab.admin('POST', path, { encryption: luks });
    const already = `Volume type encryption for type ${id} already exists.`;
    assert.deepEqual([second.status, second.body.badRequest?.message], [400, already]);
    assert.equal((await lab.admin('GET', `/types/${nobody}/encryption`)).status, 404);
    assert.equal((await lab.admin('POST', `/types/${nobody}/encryption`, { encryption: luks })).status, 404);
  });

  it('is refused without a provider or a place, and with a size that is no number; other fields are ignored', async () => {
    const { id } = await lab.addType();
    const path = `/types/${id}/encryption`;
    for (const encryption of [
      {},
      { provider: 'luks' },
      { control_location: 'front-end' },
      { ...luks, control_location: 'middle' },
      { ...luks, key_size: -1 },
      { ...luks, key_size: 'long' },
      { ...luks, provider: 7 },
      { ...luks, cipher: 'x'.repeat(256) },
    ]) {
      assert.equal((await lab.admin('POST', path, { encryption })).status, 400, JSON.stringify(encryption));
    }
    assert.equal((await lab.admin('POST', path, { encryption: { ...luks, colour: 'blue' } })).status, 200);
    assert.equal(Object.hasOwn((await lab.admin('GET', path)).body, 'colour'), false);
  });

  it('is nobody’s business but the admin’s', async () => {
    const { id } = await lab.addType();
    const path = `/types/${id}/encryption`;
    assert.equal((await lab.call('GET', path)).status, 403);
    assert.equal((await lab.call('POST', path, { body: { encryption: luks } })).status, 403);
    assert.equal((await lab.call('DELETE', `${path}/provider`)).status, 403);
  });

  it('stays as it is while a volume is of the type', async () => {
    const [bare, encrypted] = [await lab.addType(), await lab.addType()];
    await lab.admin('POST', `/types/${encrypted.id}/encryption`, { encryption: luks });
    for (const { id } of [bare, encrypted]) await lab.addVolume(lab.projects.two, { typeId: id });
    const answers = {
      create: await lab.admin('POST', `/types/${bare.id}/encryption`, { encryption: luks }),
      update: await lab.admin('PUT', `/types/${encrypted.id}/encryption/x`, { encryption: { provider: 'plain' } }),
      delete: await lab.admin('DELETE', `/types/${encrypted.id}/encryption/x`),
    };
    for (const [verb, { status, body }] of Object.entries(answers)) {
      const message = `Cannot ${verb} encryption specs. Volume type in use.`;
      assert.deepEqual([status, body.badRequest?.message], [400, message]);
    }
    assert.equal((await lab.admin('GET', `/types/${encrypted.id}/encryption`)).body.provider, 'luks');
  });

  it('does not change while a volume of the type is on its way: who holds the type is waited for', async () => {
    const { id } = await lab.addType();
    const asked = await lab.db.transaction().execute(async (tx) => {
      assert.equal((await holdVolumeType(tx, id))?.encryption, null);
      const answer = lab.admin('POST', `/types/${id}/encryption`, { encryption: luks });
      assert.equal(await Promise.race([answer, sleep(300, 'waiting')]), 'waiting');
      const { id: volume } = await lab.addVolume(lab.projects.one);
      await tx.updateTable('volumes').set({ volume_type_id: id }).where('id', '=', volume).execute();
      return { answer };
    });
    assert.equal((await asked.answer).status, 400);
  });
});

describe('a private volume type', () => {
  it('is seen by the projects it was given to, and by no other', async () => {
    const { id, name } = await lab.addType({ 'os-volume-type-access:is_public': false });
    const seen = async () => [
      (await lab.call('GET', `/types/${id}`)).status,
      (await lab.call('GET', `/types/${id}`, { as: 'stranger' })).status,
    ];
    const act = (action: string, project: string) =>
      lab.admin('POST', `/types/${id}/action`, { [action]: { project } });
    assert.deepEqual(await seen(), [404, 404]);
    assert.equal((await act('addProjectAccess', lab.projects.one)).status, 202);
    assert.deepEqual(await seen(), [200, 404]);
    const list = await lab.call('GET', '/types');
    assert.ok(list.body.volume_types.some((type: { name: string }) => type.name === name));
    const again = await act('addProjectAccess', lab.projects.one);
    const exists = `Volume type access for ${id} / ${lab.projects.one} combination already exists.`;
    assert.deepEqual([again.status, again.body.conflictingRequest?.message], [409, exists]);
    assert.deepEqual((await lab.admin('GET', `/types/${id}/os-volume-type-access`)).body, {
      volume_type_access: [{ volume_type_id: id, project_id: lab.projects.one }],
    });
    assert.equal((await act('removeProjectAccess', lab.projects.one)).status, 202);
    assert.deepEqual(await seen(), [404, 404]);
    const missing = await act('removeProjectAccess', lab.projects.one);
    const none = `Volume type access not found for ${id} / ${lab.projects.one} combination.`;
    assert.deepEqual([missing.status, missing.body.itemNotFound?.message], [404, none]);
  });

  it('alone has a list of projects', async () => {
    const { id } = await lab.addType();
    const list = await lab.admin('GET', `/types/${id}/os-volume-type-access`);
    const message = 'Access list not available for public volume types.';
    assert.deepEqual([list.status, list.body.itemNotFound?.message], [404, message]);
    const body = { addProjectAccess: { project: lab.projects.one } };
    assert.equal((await lab.admin('POST', `/types/${id}/action`, body)).status, 400);
    assert.equal((await lab.call('POST', `/types/${id}/action`, { body })).status, 403);
    assert.equal((await lab.admin('POST', `/types/${id}/action`, { addProjectAccess: {} })).status, 400);
  });
});
