import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { volumeActionCalls } from '#api/block-storage/volume-actions.ts';
import type { ProjectId } from '#core/ids.ts';
import { insertMessage, listMessages } from '#db/messages.ts';
import { type RawAnswer, sendRaw } from '#test/support/raw-http.ts';
import { allRoutes, type Route } from '#test/support/routes.ts';
import { pathOf, type SampleIds, sampleRequests } from '#test/support/sample-requests.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';
import { volumeActionSamples } from '#test/support/volume-action-samples.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * One tenant sees nothing of another. Everything project one has carries a word that nobody else knows; every route is
 * asked for it by every kind of outsider, and the word comes back to none of them.
 */

const WORD = 'kestrel';
const routes = await allRoutes();

let lab: TroubleLab;
/** What belongs to project one. */
let ids: SampleIds;
let owner: string;
/** Outsiders by what they are; those whose token is none. */
let outsiders: Readonly<Record<string, string>>;
let invalid: Readonly<Record<string, string>>;
let reader: string;
/** The project of each token. */
const scopes = new Map<string, string>();
let untouched: string;

before(async () => {
  lab = await TroubleLab.open({ imagesType: 'raw' });
  const one = await project(`${WORD} project`);
  const two = await project('two');
  const alice = await user(`${WORD}-alice`, one, 'member');
  owner = await logIn(alice, one);
  reader = await logIn(await user(`${WORD}-rita`, one, 'reader'), one);
  const bob = await user('bob', two, 'member');
  ids = await belongings(one, alice);
  outsiders = {
    'a member of another project': await logIn(bob, two),
    'a reader of another project': await logIn(await user('rob', two, 'reader'), two),
    'a member of another project without scope': await logIn(bob, null),
    'a member of project one without scope': await logIn(alice, null),
    'nobody in any project': await logIn(await user('nemo', null, 'member'), null),
  };
  invalid = await invalidTokens(alice, one);
  untouched = await everythingOfOne();
});
after(() => lab[Symbol.asyncDispose]());

async function project(name: string): Promise<string> {
  const body = { project: { name, description: name } };
  return (await lab.cloud.expect('identity', 'POST', '/v3/projects', { body })).project.id;
}

async function user(name: string, projectId: string | null, role: string): Promise<string> {
  const body = { user: { name, password: `password of ${name}`, description: name } };
  const { id } = (await lab.cloud.expect('identity', 'POST', '/v3/users', { body })).user;
  const { roles } = await lab.cloud.expect('identity', 'GET', `/v3/roles?name=${role}`);
  const grant = `/v3/projects/${projectId}/users/${id}/roles/${roles[0].id}`;
  if (projectId !== null) await lab.cloud.expect('identity', 'PUT', grant);
  return id;
}

async function logIn(userId: string, projectId: string | null): Promise<string> {
  const { name } = (await lab.cloud.expect('identity', 'GET', `/v3/users/${userId}`)).user;
  const password = { user: { id: userId, password: `password of ${name}` } };
  const scope = projectId === null ? 'unscoped' : { project: { id: projectId } };
  const body = JSON.stringify({ auth: { identity: { methods: ['password'], password }, scope } });
  const answer = await send('POST', '/identity/v3/auth/tokens', null, body);
  assert.equal(answer.status, 201, answer.text);
  const token = String(answer.headers['x-subject-token']);
  if (projectId !== null) scopes.set(token, projectId);
  return token;
}

function send(method: string, path: string, token: string | null, body?: string, type = 'application/json') {
  const headers = {
    accept: 'application/json',
    'openstack-api-version': 'compute 2.90, volume 3.70',
    ...(token === null ? {} : { 'x-auth-token': token }),
    ...(body === undefined ? {} : { 'content-type': type, 'content-length': `${Buffer.byteLength(body)}` }),
  };
  return sendRaw(lab.service.url, method, path, { headers, ...(body === undefined ? {} : { body }) });
}

/** An image, a private flavor and a running server of project one, with the word wherever there is room for it. */
async function belongings(projectId: string, userId: string): Promise<SampleIds> {
  const image = { name: WORD, disk_format: 'raw', container_format: 'bare', tags: [WORD], colour: WORD };
  const { json: made } = await send('POST', '/image/v2/images', owner, JSON.stringify(image));
  const bytes = await readFile(join(lab.service.directory, 'boot.raw'), 'latin1');
  const put = await send('PUT', `/image/v2/images/${made.id}/file`, owner, bytes, 'application/octet-stream');
  assert.equal(put.status, 204, put.text);
  const flavor = { name: WORD, ram: 64, vcpus: 1, disk: 1, 'os-flavor-access:is_public': false, description: WORD };
  const { id } = (await lab.cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } })).flavor;
  const access = { addTenantAccess: { tenant: projectId } };
  await lab.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/action`, { body: access });
  const extra_specs = { 'hw:ephemeral_encryption': 'true', [`x:${WORD}`]: WORD };
  const specs = { body: { extra_specs }, headers: { 'openstack-api-version': 'compute 2.85' } };
  await lab.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, specs);
  const server = {
    ...{ name: WORD, imageRef: made.id, flavorRef: id, networks: 'none', metadata: { something: WORD, [WORD]: WORD } },
    ...{
      description: WORD,
      tags: [WORD, 'something'],
      hostname: WORD,
      user_data: Buffer.from(WORD).toString('base64'),
    },
  };
  const created = await send('POST', '/compute/v2.1/servers', owner, JSON.stringify({ server }));
  assert.equal(created.status, 202, created.text);
  await lab.cloud.waitForStatus(created.json.server.id, 'ACTIVE');
  const { roles } = await lab.cloud.expect('identity', 'GET', '/v3/roles?name=member');
  return {
    ...{ servers: created.json.server.id, flavors: id, images: made.id },
    ...{ users: userId, projects: projectId, roles: roles[0].id, scope: projectId },
    ...(await blockStorageBelongings(projectId)),
  };
}

/** What of the belongings is no block storage. */
const elsewhere = { servers: 0, flavors: 0, images: 0, users: 0, projects: 0, roles: 0, scope: 0 };

type Volumes = Pick<SampleIds, 'volumes' | 'snapshots' | 'attachments' | 'backups' | 'transfers'>;

/** A volume of project one, a snapshot and a backup of it, an attachment of another, and a third that is offered. */
async function volumesOf(projectId: string): Promise<Volumes> {
  const path = `/volume/v3/${projectId}`;
  const make = async (kind: string, fields: object): Promise<string> => {
    const body = { [kind]: { name: WORD, description: WORD, metadata: { something: WORD, [WORD]: WORD }, ...fields } };
    const made = await send('POST', `${path}/${kind}s`, owner, JSON.stringify(body));
    assert.equal(made.status, 202, made.text);
    const { id } = made.json[kind];
    const isThere = async () => (await send('GET', `${path}/${kind}s/${id}`, owner)).json[kind].status === 'available';
    await waitUntil(`the ${kind} is there`, isThere, 60_000);
    return id;
  };
  const volumes = await make('volume', { size: 1 });
  const attachment = { volume_uuid: await make('volume', { size: 1 }), connector: { mountpoint: WORD } };
  const attached = await send('POST', `${path}/attachments`, owner, JSON.stringify({ attachment }));
  assert.equal(attached.status, 200, attached.text);
  const { id: attachments } = attached.json.attachment;
  const transfer = { volume_id: await make('volume', { size: 1 }), name: WORD };
  const offered = await send('POST', `${path}/volume-transfers`, owner, JSON.stringify({ transfer }));
  assert.equal(offered.status, 202, offered.text);
  const snapshots = await make('snapshot', { volume_id: volumes });
  const backups = await make('backup', { volume_id: volumes });
  return { volumes, attachments, snapshots, backups, transfers: offered.json.transfer.id };
}

/** A private volume type that project one was given, and a message to it. */
async function blockStorageBelongings(projectId: string): Promise<Omit<SampleIds, keyof typeof elsewhere>> {
  const volume_type = {
    ...{ name: WORD, description: WORD, extra_specs: { multiattach: WORD } },
    'os-volume-type-access:is_public': false,
  };
  const path = `/v3/${projectId}/types`;
  const { id } = (await lab.cloud.expect('volume', 'POST', path, { body: { volume_type } })).volume_type;
  const body = { addProjectAccess: { project: projectId } };
  await lab.cloud.expect('volume', 'POST', `${path}/${id}/action`, { body });
  await insertMessage(lab.db, {
    ...{ project_id: projectId as ProjectId, request_id: 'req-x', resource_type: 'VOLUME', resource_uuid: id },
    ...{ event: '001_003', text: WORD },
  });
  const [message] = await listMessages(lab.db, projectId as ProjectId);
  assert.ok(message);
  return { types: id, messages: message.id, ...(await volumesOf(projectId)) };
}

/** Tokens that were good for project one, and why they are not any more. */
async function invalidTokens(userId: string, projectId: string): Promise<Record<string, string>> {
  const hashOf = (token: string) => createHash('sha256').update(token).digest();
  const fresh = () => logIn(userId, projectId);
  const expired = await fresh();
  const change = { expires_at: new Date(Date.now() - 1000) } as never;
  await lab.db.updateTable('tokens').set(change).where('hash', '=', hashOf(expired)).execute();
  const revoked = await fresh();
  const headers = { 'x-auth-token': revoked, 'x-subject-token': revoked };
  assert.equal((await sendRaw(lab.service.url, 'DELETE', '/identity/v3/auth/tokens', { headers })).status, 204);
  const former = await user(`${WORD}-former`, projectId, 'member');
  const withdrawn = await logIn(former, projectId);
  const { roles } = await lab.cloud.expect('identity', 'GET', '/v3/roles?name=member');
  await lab.cloud.expect('identity', 'DELETE', `/v3/projects/${projectId}/users/${former}/roles/${roles[0].id}`);
  const locked = await user(`${WORD}-locked`, projectId, 'member');
  const disabled = await logIn(locked, projectId);
  await lab.cloud.expect('identity', 'PATCH', `/v3/users/${locked}`, { body: { user: { enabled: false } } });
  const one = await fresh();
  return {
    ...{ 'an expired token': expired, 'a revoked token': revoked, 'a token of a role that was withdrawn': withdrawn },
    ...{
      'a token of a disabled user': disabled,
      'half a token': one.slice(0, 20),
      'a hash': hashOf(one).toString('hex'),
    },
    'a token with something after it': `${one}=`,
  };
}

/** Every row of project one and of what belongs to it, and the bytes of its image. */
async function everythingOfOne(): Promise<string> {
  const rows = [
    await lab.db
      .selectFrom('servers')
      .selectAll()
      .where('id', '=', ids.servers as never)
      .execute(),
    await lab.db
      .selectFrom('disks')
      .selectAll()
      .where('owner_id', 'in', [ids.servers, ids.volumes, ids.snapshots] as never[])
      .orderBy('id')
      .execute(),
    await lab.db
      .selectFrom('images')
      .selectAll()
      .where('id', '=', ids.images as never)
      .execute(),
    await lab.db.selectFrom('flavors').selectAll().where('id', '=', ids.flavors).execute(),
    await lab.db.selectFrom('flavor_access').selectAll().execute(),
    await lab.db.selectFrom('volume_types').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('volume_type_access').selectAll().execute(),
    await lab.db.selectFrom('volume_quotas').selectAll().execute(),
    await lab.db.selectFrom('messages').selectAll().execute(),
    await lab.db.selectFrom('volumes').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('snapshots').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('volume_attachments').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('backups').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('volume_transfers').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('projects').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('users').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('roles').selectAll().orderBy('id').execute(),
    await lab.db.selectFrom('role_assignments').selectAll().orderBy('user_id').execute(),
    await lab.db.selectFrom('secrets').selectAll().orderBy('id').execute(),
    await lab.guests(),
  ];
  const bytes = await readFile(join(lab.service.stateDirectory, 'images', ids.images));
  return JSON.stringify([rows, createHash('sha256').update(bytes).digest('hex')]);
}

/** A request to the route that would do its work for who may. */
function ask(route: Route, token: string | null, thing: SampleIds): Promise<RawAnswer> {
  const about = { ...thing, scope: scopes.get(token ?? '') ?? thing.projects };
  const name = `${route.method} ${route.path}`;
  const action = { 'POST /compute/v2.1/servers/:id/action': { 'os-stop': null } }[name];
  const sample = action ?? sampleRequests(about)[name];
  const type = name.startsWith('PATCH /image') ? 'application/openstack-images-v2.1-json-patch' : 'application/json';
  const path = pathOf(route, about);
  if (name.endsWith('/file') && route.method === 'PUT') {
    return send(route.method, path, token, 'bytes', 'application/octet-stream');
  }
  return send(route.method, path, token, sample === undefined ? undefined : JSON.stringify(sample), type);
}

function actOnVolume(scope: string, token: string, action: object): Promise<RawAnswer> {
  return send('POST', `/volume/v3/${scope}/volumes/${ids.volumes}/action`, token, JSON.stringify(action));
}

/** What members of the volume's own project may not do to it either. */
const ADMIN_ONLY = /reset_status|migrat|force_de/;

const nameOf = ({ method, path }: Route) => `${method} ${path}`;
/** The same for every project, also for one that there is not; it says again whose they were asked for. */
const isSameForAll = ({ path }: Route) => path === '/compute/v2.1/os-quota-sets/:project/defaults';
const guarded = routes.filter(({ isPublic }) => !isPublic);
/** Routes about one thing, which here is always something of project one. */
const aboutOne = guarded.filter(({ path }) =>
  /\/(servers|flavors|images|users|projects|os-quota-sets|types|messages|volumes|snapshots|attachments|backups|volume-transfers|os-volume-transfer)\/:/.test(
    path,
  ),
);

describe('one tenant sees nothing of another', { timeout: 900_000 }, () => {
  it('while it sees its own: the word is where the others are asked for it', async () => {
    let seen = 0;
    for (const route of guarded.filter(({ method }) => method === 'GET')) {
      const answer = await ask(route, owner, ids);
      assert.ok(answer.status < 500, `${nameOf(route)}: ${answer.text}`);
      if (answer.status === 200 && answer.text.includes(WORD)) seen++;
    }
    assert.ok(seen >= 15, `the word was seen on ${seen} routes only`);
  });

  it('without a valid token nothing is answered but what is public', async () => {
    for (const [what, token] of [...Object.entries(invalid), ['no token', null] as const]) {
      for (const route of guarded) {
        const answer = await ask(route, token, ids);
        assert.equal(answer.status, 401, `${nameOf(route)} with ${what}: ${answer.text}`);
        assert.ok(!answer.text.includes(WORD));
      }
    }
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider nothing of it is shown, on any route', async () => {
    for (const [who, token] of Object.entries(outsiders)) {
      // Alice without scope is herself: her own account is hers to see.
      const isAlice = who.includes('project one');
      for (const route of guarded) {
        const answer = await ask(route, token, ids);
        const told = `${nameOf(route)} by ${who}: ${answer.status} ${answer.text.slice(0, 400)}`;
        assert.ok(answer.status < 500 || answer.status === 501, told);
        const isIdentity = route.path.startsWith('/identity');
        if (isAlice && isIdentity) continue;
        assert.ok(!answer.text.includes(WORD), told);
        assert.ok(!JSON.stringify(answer.headers).includes(WORD), told);
        if (answer.status >= 400 || isSameForAll(route)) continue;
        for (const id of [
          ids.servers,
          ids.images,
          ids.flavors,
          ids.projects,
          ids.users,
          ids.types,
          ids.volumes,
          ids.snapshots,
          ids.attachments,
          ids.backups,
          ids.transfers,
        ]) {
          assert.ok(!answer.text.includes(id), told);
        }
      }
    }
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider one of its things is as if it were not there', async () => {
    const nothing: SampleIds = {
      ...{ servers: '99999999-9999-4999-8999-999999999999', images: '99999999-9999-4999-8999-999999999998' },
      ...{ flavors: '99999999-9999-4999-8999-999999999997', users: '9'.repeat(32), projects: '8'.repeat(32) },
      ...{ types: '99999999-9999-4999-8999-999999999996', messages: '99999999-9999-4999-8999-999999999995' },
      ...{ volumes: '99999999-9999-4999-8999-999999999994', snapshots: '99999999-9999-4999-8999-999999999993' },
      ...{ attachments: '99999999-9999-4999-8999-999999999992', backups: '99999999-9999-4999-8999-999999999991' },
      ...{ transfers: '99999999-9999-4999-8999-999999999990' },
      ...{ roles: ids.roles, scope: ids.scope },
    };
    const anonymous = (answer: RawAnswer, about: SampleIds) => {
      let text = answer.text.replaceAll(/req-[0-9a-f-]+/g, 'req');
      for (const id of Object.values(about)) text = text.replaceAll(id, 'ID');
      return [answer.status, text, Object.keys(answer.headers).sort()];
    };
    for (const [who, token] of Object.entries(outsiders)) {
      if (who.includes('project one')) continue;
      // Who knows the id of a transfer may try its key.
      for (const route of aboutOne.filter(({ path }) => !path.endsWith('/:id/accept'))) {
        const told = `${nameOf(route)} by ${who}`;
        const [real, none] = [await ask(route, token, ids), await ask(route, token, nothing)];
        assert.deepEqual(anonymous(real, ids), anonymous(none, nothing), told);
        if (isSameForAll(route)) continue;
        assert.ok([401, 403, 404].includes(real.status), `${told}: ${real.status} ${real.text}`);
      }
    }
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider no server is made from its image or its flavor', async () => {
    const stranger = outsiders['a member of another project'] ?? '';
    const base = { name: 'x', imageRef: lab.image, flavorRef: 'tiny', networks: 'none' };
    for (const change of [{ imageRef: ids.images }, { flavorRef: ids.flavors }, {}]) {
      const answer = await send(
        'POST',
        '/compute/v2.1/servers',
        stranger,
        JSON.stringify({ server: { ...base, ...change } }),
      );
      assert.equal(answer.status, 400, answer.text);
      assert.ok(!answer.text.includes(WORD));
    }
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider no action on its volume is there', async () => {
    const known = volumeActionSamples(ids).map((sample) => Object.keys(sample)[0] ?? '');
    assert.deepEqual([...new Set(known)].sort(), Object.keys(volumeActionCalls).sort());
    for (const [who, token] of Object.entries(outsiders)) {
      const scope = scopes.get(token) ?? ids.projects;
      for (const sample of volumeActionSamples(ids)) {
        const answer = await actOnVolume(scope, token, sample);
        const told = `${JSON.stringify(sample)} by ${who}: ${answer.status} ${answer.text}`;
        // Whether it is there is not asked for who may not do that at all.
        assert.ok([401, 403, 404].includes(answer.status), told);
        assert.ok(!answer.text.includes(WORD), told);
        const isMembers = !ADMIN_ONLY.test(Object.keys(sample)[0] ?? '');
        if (who === 'a member of another project' && isMembers) assert.equal(answer.status, 404, told);
        // Nor in the name of the project whose it is.
        const inItsName = await actOnVolume(ids.projects, token, sample);
        assert.ok(inItsName.status >= 400 && inItsName.status < 500, `${told}, ${inItsName.status}`);
      }
    }
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider nothing is made of its volumes, snapshots, backups and types', async () => {
    const stranger = outsiders['a member of another project'] ?? '';
    const path = `/volume/v3/${scopes.get(stranger)}`;
    const { volumes: volume_id, snapshots: snapshot_id, backups: backup_id } = ids;
    const asked: readonly (readonly [string, object])[] = [
      ['volumes', { volume: { size: 1, source_volid: volume_id } }],
      ['volumes', { volume: { size: 1, snapshot_id } }],
      ['volumes', { volume: { size: 1, backup_id } }],
      ['volumes', { volume: { size: 1, volume_type: ids.types } }],
      ['volumes', { volume: { size: 1, volume_type: WORD } }],
      ['snapshots', { snapshot: { volume_id, force: true } }],
      ['backups', { backup: { volume_id, force: true } }],
      ['backups', { backup: { volume_id, snapshot_id } }],
      [`backups/${backup_id}/restore`, { restore: { name: 'x' } }],
      ['volume-transfers', { transfer: { volume_id } }],
      [`volume-transfers/${ids.transfers}/accept`, { accept: { auth_key: 'x' } }],
      ['attachments', { attachment: { volume_uuid: volume_id } }],
    ];
    for (const [kind, body] of asked) {
      const answer = await send('POST', `${path}/${kind}`, stranger, JSON.stringify(body));
      // Who knows its id may try the key of a transfer.
      const expected = kind.endsWith('/accept') ? 400 : 404;
      assert.equal(answer.status, expected, `${kind} ${JSON.stringify(body)}: ${answer.text}`);
    }
    const image = await send(
      'POST',
      `${path}/volumes`,
      stranger,
      JSON.stringify({ volume: { size: 1, imageRef: ids.images } }),
    );
    assert.ok([400, 404].includes(image.status), image.text);
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an outsider no filter reaches it', async () => {
    const stranger = outsiders['a member of another project'] ?? '';
    for (const query of ['all_tenants=1', 'all_tenants', 'all_tenants=true&project_id=x']) {
      for (const list of ['servers', 'servers/detail']) {
        assert.equal((await send('GET', `/compute/v2.1/${list}?${query}`, stranger)).status, 403);
      }
    }
    const { servers, images, flavors, users, projects } = ids;
    const queries: Record<string, string[]> = {
      '/compute/v2.1/servers/detail': [
        ...[`project_id=${projects}`, `tenant_id=${projects}`, `uuid=${servers}`, `name=${WORD}`, 'name=.*'],
        ...[`image=${images}`, `flavor=${flavors}`, `user_id=${users}`, 'host=testhost', `tags=${WORD}`],
        ...[
          'changes-since=2000-01-01',
          'not-tags=x',
          'status=ACTIVE',
          `hostname=${WORD}`,
          'all_tenants=0',
          'deleted=1',
        ],
      ],
      '/compute/v2.1/flavors/detail': ['is_public=None', 'is_public=False', 'is_public=false', 'minRam=1'],
      '/image/v2/images': [
        ...[`owner=${projects}`, 'visibility=all', 'visibility=private', 'visibility=shared', 'visibility=community'],
        ...[`name=${WORD}`, `id=${images}`, `id=in:${images}`, `tag=${WORD}`, `colour=${WORD}`, 'member_status=all'],
        ...['os_hidden=true', 'status=active', 'size_min=1'],
      ],
      '/identity/v3/role_assignments': [`scope.project.id=${projects}`, `user.id=${users}`, 'include_names=1'],
    };
    for (const [path, list] of Object.entries(queries)) {
      for (const query of list) {
        const answer = await send('GET', `${path}?${query}`, stranger);
        // Links to a page say again what was asked for.
        const text = answer.text.replaceAll('%3A', ':').replaceAll(query, '');
        const told = `${path}?${query}: ${answer.status} ${answer.text}`;
        assert.ok(answer.status < 500, told);
        assert.ok(!text.includes(WORD) && !text.includes(servers) && !text.includes(flavors), told);
        if (answer.status === 200) assert.ok(!text.includes(images), told);
      }
    }
    // A marker of another project's list is no marker.
    for (const [path, id] of [
      ['/compute/v2.1/servers', servers],
      ['/image/v2/images', images],
      ['/compute/v2.1/flavors', flavors],
    ]) {
      const real = await send('GET', `${path}?marker=${id}`, stranger);
      const none = await send('GET', `${path}?marker=99999999-9999-4999-8999-999999999999`, stranger);
      assert.equal(real.status, none.status);
      assert.equal(real.status, 400, real.text);
    }
  });

  it('as an outsider its token is neither looked at nor taken away', async () => {
    for (const [who, token] of Object.entries(outsiders)) {
      if (who.includes('project one')) continue;
      for (const method of ['GET', 'DELETE']) {
        const headers = { 'x-auth-token': token, 'x-subject-token': owner };
        const answer = await sendRaw(lab.service.url, method, '/identity/v3/auth/tokens', { headers });
        assert.ok([403, 404].includes(answer.status), `${method} by ${who}: ${answer.text}`);
        assert.ok(!answer.text.includes(WORD));
      }
    }
    assert.equal((await send('GET', `/compute/v2.1/servers/${ids.servers}`, owner)).status, 200);
  });

  it('as a reader of the project all of it is seen and nothing of it is changed', async () => {
    for (const route of aboutOne.filter(({ method, path }) => method !== 'GET' && !/\/(users|projects)\//.test(path))) {
      const answer = await ask(route, reader, ids);
      assert.equal(answer.status, 403, `${nameOf(route)}: ${answer.status} ${answer.text}`);
    }
    for (const sample of volumeActionSamples(ids)) {
      if ('os-show_image_metadata' in sample) continue;
      const answer = await actOnVolume(ids.scope, reader, sample);
      assert.equal(answer.status, 403, `${JSON.stringify(sample)}: ${answer.text}`);
    }
    for (const action of [
      'os-start',
      'os-stop',
      'suspend',
      'resume',
      'pause',
      'unpause',
      'rescue',
      'unrescue',
      'confirmResize',
      'revertResize',
      'lock',
      'unlock',
      'forceDelete',
    ]) {
      const answer = await send(
        'POST',
        `/compute/v2.1/servers/${ids.servers}/action`,
        reader,
        JSON.stringify({ [action]: null }),
      );
      assert.equal(answer.status, 403, `${action}: ${answer.text}`);
    }
    for (const body of [
      { reboot: { type: 'HARD' } },
      { 'os-resetState': { state: 'error' } },
      { 'os-getConsoleOutput': {} },
    ]) {
      const answer = await send('POST', `/compute/v2.1/servers/${ids.servers}/action`, reader, JSON.stringify(body));
      assert.equal(answer.status, 403, `${JSON.stringify(body)}: ${answer.text}`);
    }
    for (const name of [
      'POST /image/v2/images',
      'POST /compute/v2.1/servers',
      'POST /compute/v2.1/flavors',
      'POST /identity/v3/users',
      'POST /identity/v3/projects',
      'POST /identity/v3/roles',
    ]) {
      const route = routes.find((one) => nameOf(one) === name);
      assert.ok(route, name);
      assert.equal((await ask(route, reader, ids)).status, 403, name);
    }
    const shown = await send('GET', `/compute/v2.1/servers/${ids.servers}`, reader);
    assert.equal(shown.json.server.name, WORD);
    assert.equal(await everythingOfOne(), untouched);
  });

  it('as an admin all of it is seen where it is asked for, and not by the way', async () => {
    const token = await lab.cloud.token();
    const all = await send('GET', '/compute/v2.1/servers/detail?all_tenants=1', token);
    assert.deepEqual(
      all.json.servers.map(({ id }: { id: string }) => id),
      [ids.servers],
    );
    const own = await send('GET', '/compute/v2.1/servers/detail', token);
    assert.deepEqual(own.json.servers, []);
    assert.equal(
      (await send('GET', `/compute/v2.1/servers/${ids.servers}`, token)).json.server.tenant_id,
      ids.projects,
    );
  });
});
