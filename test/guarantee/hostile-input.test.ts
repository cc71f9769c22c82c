import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { sql } from 'kysely';
import { brokenBodies, hostileQueries, hostileSegments, mutations, queryNames } from '#test/support/hostile-values.ts';
import { type RawAnswer, type RawRequest, sendBytes, sendRaw } from '#test/support/raw-http.ts';
import { allRoutes, knownServices, type Route } from '#test/support/routes.ts';
import { pathOf, type SampleIds, sampleRequests } from '#test/support/sample-requests.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';
import { volumeActionSamples } from '#test/support/volume-action-samples.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * Whatever comes in over HTTP is answered by the service in its own shape, never with 500; what was refused has changed
 * nothing. By an admin, because policy lets it through to the code behind every route.
 */

const routes = await allRoutes();
const none = {
  ...{ servers: '', flavors: '', images: '', users: '', projects: '', roles: '' },
  ...{ types: '', messages: '', scope: '', volumes: '', snapshots: '', attachments: '', backups: '', transfers: '' },
};
const sampled = Object.keys(sampleRequests(none));
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const nameOf = ({ method, path }: Route) => `${method} ${path}`;

let lab: TroubleLab;
let token: string;
/** What the parameters of paths are, so that a request gets as far as it can. */
let ids: SampleIds;
let samples: Readonly<Record<string, unknown>>;
/** A server that no action is allowed on, so that one that was let through is judged to its end and starts nothing. */
let inert: string;
let guests: number[];
let pid: number | undefined;
before(async () => {
  lab = await TroubleLab.open({ imagesType: 'raw' });
  token = await lab.cloud.token();
  const server = await lab.createActive();
  const make = async (service: 'identity' | 'compute' | 'volume', path: string, body: object, kind: string) =>
    (await lab.cloud.expect(service, 'POST', path, { body: { [kind]: body } }))[kind].id;
  // No host has as many processors: a server that was let through ends in ERROR at once.
  const flavor = await make('compute', '/v2.1/flavors', { name: 'giant', ram: 64, vcpus: 99999, disk: 1 }, 'flavor');
  const roles = await lab.cloud.expect('identity', 'GET', '/v3/roles');
  const scope = await make('identity', '/v3/projects', { name: 'somewhere' }, 'project');
  ids = {
    servers: server,
    flavors: flavor,
    images: lab.image,
    users: await make('identity', '/v3/users', { name: 'someone', password: 'p' }, 'user'),
    ...{ projects: scope, scope, messages: 'something', attachments: 'something' },
    ...{ backups: 'something', transfers: 'something' },
    roles: roles.roles[0].id,
    types: await make('volume', `/v3/${scope}/types`, { name: 'kept' }, 'volume_type'),
    ...(await inertVolume(scope)),
  };
  samples = sampleRequests(ids);
  inert = await lab.createActive();
  await lab.cloud.act(inert, { 'os-stop': null });
  await lab.cloud.waitForStatus(inert, 'SHUTOFF');
  await sql`update servers set vm_state = 'rescued' where id = ${inert}`.execute(lab.db);
  guests = await lab.guests();
  pid = lab.service.pid;
});
after(() => lab[Symbol.asyncDispose]());

/** A volume that no action is allowed on, and a snapshot of it, likewise. */
async function inertVolume(scope: string): Promise<Pick<SampleIds, 'volumes' | 'snapshots'>> {
  const make = async (kind: string, body: object) => {
    const made = await lab.cloud.expect('volume', 'POST', `/v3/${scope}/${kind}s`, { body: { [kind]: body } });
    const path = `/v3/${scope}/${kind}s/${made[kind].id}`;
    const isThere = async () => (await lab.cloud.expect('volume', 'GET', path))[kind].status === 'available';
    await waitUntil(`the ${kind} is there`, isThere, 60_000);
    return made[kind].id;
  };
  const volumes = await make('volume', { size: 1, name: 'inert' });
  const snapshots = await make('snapshot', { volume_id: volumes, name: 'inert' });
  await sql`update volumes set status = 'maintenance' where id = ${volumes}`.execute(lab.db);
  await sql`update snapshots set status = 'error_deleting' where id = ${snapshots}`.execute(lab.db);
  return { volumes, snapshots };
}

function send(method: string, path: string, { headers, body }: RawRequest = {}): Promise<RawAnswer> {
  const standard = {
    'x-auth-token': token,
    accept: 'application/json',
    'openstack-api-version': 'compute 2.90, volume 3.70',
    ...(body === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(body)}` }),
  };
  return sendRaw(lab.service.url, method, path, {
    headers: { ...standard, ...headers },
    ...(body === undefined ? {} : { body }),
  });
}

/** It was answered, and if it was refused, in the shape of the service it was sent to. */
function checkAnswer(path: string, answer: RawAnswer, what: string): void {
  const told = `${path.slice(0, 200)} ${what}: ${answer.status} ${answer.text.slice(0, 300)}`;
  assert.ok(answer.status >= 200 && (answer.status < 500 || answer.status === 501), told);
  assert.ok(answer.text.length < 20_000 || answer.status < 400, `a refusal carries what was sent: ${told}`);
  assert.equal(answer.headers['set-cookie'], undefined, told);
  if (answer.status < 400) return;
  assert.match(String(answer.headers['x-openstack-request-id']), /^req-[0-9a-f-]{36}$/, told);
  if (path.startsWith('/image')) {
    assert.match(answer.json?.code, new RegExp(`^${answer.status} `), told);
    return;
  }
  const [failure] = Object.values(answer.json ?? {}) as { code?: unknown; message?: unknown }[];
  assert.equal(failure?.code, answer.status, told);
  assert.ok(typeof failure?.message === 'string' && failure.message !== '', told);
}

function checkRefused(path: string, answer: RawAnswer, what: string): void {
  checkAnswer(path, answer, what);
  assert.ok(answer.status >= 400, `${path} ${what} was let through: ${answer.status} ${answer.text.slice(0, 300)}`);
}

/** Rows of every table, the engine's too, but for tokens and records of the engine's own pace. */
async function countRows(): Promise<Record<string, number>> {
  const tables = await sql<{ name: string }>`select format('%I.%I', table_schema, table_name) as name
    from information_schema.tables where table_schema in ('public', 'dbos') and table_name <> 'tokens'`.execute(lab.db);
  const counts = tables.rows.map(({ name }) => `select '${name}' as name, count(*)::int as rows from ${name}`);
  const { rows } = await sql.raw<{ name: string; rows: number }>(counts.join(' union all ')).execute(lab.db);
  return Object.fromEntries(rows.map(({ name, rows: count }) => [name, count]));
}

async function removeVolumes(kept: ReadonlySet<string>): Promise<void> {
  const path = `/v3/${ids.scope}/volumes`;
  const others = async () => {
    const { volumes } = await lab.cloud.expect('volume', 'GET', `${path}/detail?all_tenants=1`);
    return volumes.filter(({ id }: { id: string }) => !kept.has(id));
  };
  const isIdle = async () => (await others()).every(({ status }: { status: string }) => !/ing$/.test(status));
  await waitUntil('volumes are made', isIdle, 60_000);
  for (const { id } of await others()) await lab.cloud.expect('volume', 'DELETE', `${path}/${id}`);
  // An admin may say so of any volume.
  await sql`update volumes set status = 'maintenance' where id = ${ids.volumes}`.execute(lab.db);
  await waitUntil('volumes are gone', async () => (await others()).length === 0, 60_000);
  // Rows of what was deleted are kept.
  await sql`delete from volumes where deleted_at is not null`.execute(lab.db);
  await sql`delete from disks where state = 'destroyed'`.execute(lab.db);
}

/** What was made by requests that were let through is removed; then everything is as it was. */
async function removeMade(): Promise<void> {
  const kept = new Set([...Object.values(ids), inert]);
  await removeVolumes(kept);
  const lists = [
    ['compute', '/v2.1/servers?all_tenants=1', 'servers'],
    ['compute', '/v2.1/flavors?is_public=None', 'flavors'],
    ['image', '/v2/images?limit=1000', 'images'],
    ['identity', '/v3/users', 'users'],
    ['identity', '/v3/projects', 'projects'],
    ['identity', '/v3/roles', 'roles'],
    ['volume', `/v3/${ids.scope}/types?is_public=None`, 'volume_types'],
  ] as const;
  for (const [service, path, kind] of lists) {
    for (const { id, name } of (await lab.cloud.expect(service, 'GET', path))[kind]) {
      if (kept.has(id) || ['admin', 'member', 'reader', 'tiny', 'three-disks', '__DEFAULT__'].includes(name)) continue;
      if (kind === 'servers') await lab.settled(id);
      const one = `${path.split('?')[0]}/${encodeURIComponent(id)}`;
      if (kind === 'images') {
        const body = [{ op: 'replace', path: '/protected', value: false }];
        const headers = { 'content-type': 'application/openstack-images-v2.1-json-patch' };
        await lab.cloud.request(service, 'PATCH', one, { body, headers });
      }
      await lab.cloud.expect(service, 'DELETE', one);
      if (kind === 'servers') await lab.cloud.waitUntilGone(id);
    }
  }
}

/** More requests of the same routes: each action takes parameters of its own. */
const moreActions: readonly object[] = [
  { reboot: { type: 'NONE' } },
  { lock: { locked_reason: 'x' } },
  { unlock: null },
  { 'os-resetState': { state: 'none' } },
  { 'os-getSerialConsole': { type: 'serial' } },
  { rescue: { adminPass: 'x', rescue_image_ref: 'x' } },
  { resize: { flavorRef: 'x' } },
  { confirmResize: null },
  { revertResize: null },
  { rebuild: { imageRef: 'x', name: 'x', metadata: { x: 'x' }, user_data: 'eA==' } },
  { createImage: { name: 'x', metadata: { x: 'x' } } },
  { shelve: null },
];

/** Likewise, of those that take something. */
const moreVolumeActions = () => volumeActionSamples(ids).filter((sample) => Object.values(sample)[0] !== null);

/** Images may be made before anything is said of them, and changed in nothing. */
const inOrder: Readonly<Record<string, string>> = {
  'POST /image/v2/images': 'an empty object',
  'PATCH /image/v2/images/:id': 'a list',
};

const contentTypeOf = (route: Route) =>
  nameOf(route).startsWith('PATCH /image') ? 'application/openstack-images-v2.1-json-patch' : 'application/json';

describe('hostile input', { timeout: 900_000 }, () => {
  it('meets every route: there is a request to make wrong for each that takes JSON, and no service is unknown', async () => {
    const taking = routes.filter(({ takesJson }) => takesJson).map(nameOf);
    assert.deepEqual(sampled.sort(), taking.sort());
    const { json } = await sendRaw(lab.service.url, 'GET', '/');
    assert.deepEqual(json.services.map(({ type }: { type: string }) => type).sort(), [...knownServices].sort());
    assert.ok(routes.length > 100);
  });

  it('as a body that is no request at all is refused, and changes nothing', async () => {
    const rows = await countRows();
    for (const route of routes.filter(({ takesJson }) => takesJson)) {
      const path = pathOf(route, ids);
      for (const [what, body] of Object.entries(brokenBodies)) {
        if (inOrder[nameOf(route)] === what) continue;
        checkRefused(
          path,
          await send(route.method, path, { body, headers: { 'content-type': contentTypeOf(route) } }),
          what,
        );
      }
      const good = JSON.stringify(samples[nameOf(route)]);
      for (const type of [
        'text/plain',
        'application/x-www-form-urlencoded',
        'multipart/form-data',
        'application/xml',
        'x',
      ]) {
        checkRefused(path, await send(route.method, path, { body: good, headers: { 'content-type': type } }), type);
      }
      const none = await send(route.method, path, { headers: { 'content-type': contentTypeOf(route) } });
      checkRefused(path, none, 'no body');
      const broken = Buffer.from(good.replaceAll('"x"', '"\u00ff"'), 'latin1');
      if (good.includes('"x"')) checkRefused(path, await send(route.method, path, { body: broken }), 'Latin-1');
    }
    assert.deepEqual(await countRows(), rows);
  });

  for (const name of sampled) {
    it(`in any field of ${name} is judged, and leaves nothing when it is refused`, async () => {
      const route = routes.find((one) => nameOf(one) === name);
      assert.ok(route);
      const isAction = name.endsWith('servers/:id/action');
      const more = isAction ? moreActions : isWhole && name.endsWith('volumes/:id/action') ? moreVolumeActions() : [];
      const path = pathOf(route, isAction ? { ...ids, servers: inert } : ids);
      const requests = [samples[name], ...more];
      let before = await countRows();
      let refused = 0;
      for (const sample of requests) {
        for (const { what, body } of mutations(sample)) {
          const headers = { 'content-type': contentTypeOf(route) };
          const answer = await send(route.method, path, { body: JSON.stringify(body) ?? '', headers });
          checkAnswer(path, answer, what);
          if (answer.status >= 400) refused++;
          else {
            await removeMade();
            before = await countRows();
          }
        }
      }
      assert.deepEqual(await countRows(), before);
      assert.ok(refused > 20, `only ${refused} were refused`);
    });
  }

  it('in a path is refused in the right shape', async () => {
    for (const route of routes) {
      const names = route.path.split('/').filter((segment) => segment.startsWith(':'));
      for (const [i] of names.entries()) {
        for (const segment of hostileSegments) {
          let at = 0;
          const path = pathOf(route, ids, (real) => (at++ === i ? segment : real));
          const sample = samples[nameOf(route)];
          const body = sample === undefined ? {} : { body: JSON.stringify(sample) };
          checkAnswer(path, await send(route.method, path, { ...body }), `${route.method} ${segment.slice(0, 40)}`);
        }
      }
    }
  });

  it('in a query is judged', async () => {
    const few = ['', '-1', '9223372036854775808', '%ED%A0%80', '275760-09-13T00:00:01Z', '(a+)%2B$'];
    for (const route of routes.filter(({ method }) => method === 'GET')) {
      const path = pathOf(route, ids);
      const several = queryNames.map((name) => `${name}=${hostileQueries[queryNames.indexOf(name) % 20]}`).join('&');
      checkAnswer(path, await send('GET', `${path}?${several}`), 'all at once');
      checkAnswer(path, await send('GET', `${path}?${'a=1&'.repeat(3000)}`), 'many');
      // Lists are what looks at queries; of each other route one value is tried.
      const isList = !path.includes(ids.servers) && !route.path.includes(':');
      for (const name of queryNames) {
        for (const value of isList ? (isWhole ? hostileQueries : few) : ['%00']) {
          checkAnswer(path, await send('GET', `${path}?${name}=${value}`), `?${name}=${value.slice(0, 40)}`);
        }
        if (isList) checkAnswer(path, await send('GET', `${path}?${name}=1&${name}=x&${name}`), `${name} thrice`);
      }
    }
  });

  it('in a header is refused', async () => {
    for (const route of routes.filter(({ isPublic }) => !isPublic)) {
      const path = pathOf(route, ids);
      for (const bad of [
        '',
        'x',
        'x'.repeat(8000),
        `${token}x`,
        token.slice(1),
        'gAAAA\u00ff',
        '../../x',
        "' or 1=1",
      ]) {
        const answer = await send(route.method, path, { headers: { 'x-auth-token': bad } });
        checkRefused(path, answer, `${route.method} token ${bad.slice(0, 20)}`);
        assert.equal(answer.status, 401);
      }
    }
    const versions = [
      'compute',
      'compute x',
      'compute 2',
      'compute 2.999',
      'compute 2.-1',
      'compute 3.1',
      'compute 2.1.1',
    ];
    for (const version of [
      ...versions,
      `compute 2.${'9'.repeat(4000)}`,
      'x'.repeat(4000),
      'compute 2.1, compute 2.2',
    ]) {
      const answer = await send('GET', '/compute/v2.1/servers', { headers: { 'openstack-api-version': version } });
      checkAnswer('/compute', answer, version);
    }
    for (const host of ['"><script>', 'a b', 'x'.repeat(4000), '']) {
      checkAnswer('/compute', await send('GET', '/compute/v2.1', { headers: { host } }), `host ${host.slice(0, 20)}`);
    }
    for (const [name, value] of [
      ['content-encoding', 'gzip'],
      ['range', 'bytes=0-999999999999999999999'],
      ['upgrade', 'websocket'],
      ['accept', 'x'.repeat(4000)],
    ] as const) {
      checkAnswer('/compute', await send('GET', '/compute/v2.1/servers', { headers: { [name]: value } }), name);
    }
  });

  it('that is no HTTP, or more of it than is read, is refused and the connection closed', async () => {
    const head = 'GET /compute/v2.1/servers HTTP/1.1\r\nHost: x\r\n';
    const broken: Record<string, [string | Buffer, RegExp]> = {
      'no HTTP': ['hello\r\n\r\n', /^HTTP\/1\.1 400 /],
      TLS: [Buffer.from('16030100c8010000c40303', 'hex'), /^HTTP\/1\.1 400 /],
      'a huge header': [`${head}X: ${'x'.repeat(100_000)}\r\n\r\n`, /^HTTP\/1\.1 431 /],
      'many headers': [`${head}${'X: x\r\n'.repeat(20_000)}\r\n`, /^HTTP\/1\.1 431 /],
      'a huge address': [`GET /${'x'.repeat(100_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, /^HTTP\/1\.1 431 /],
      'a header with a zero byte': [`${head}X: a\0b\r\n\r\n`, /^HTTP\/1\.1 400 /],
      'two lengths': [
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
        /^HTTP\/1\.1 400 /,
      ],
      'length and chunks': [
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
        /^HTTP\/1\.1 400 /,
      ],
      'a negative length': [`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n`, /^HTTP\/1\.1 400 /],
    };
    for (const [what, [bytes, expected]] of Object.entries(broken)) {
      const answer = await sendBytes(lab.service.url, bytes);
      assert.match(answer, expected, what);
      const [, body = ''] = answer.split('\r\n\r\n');
      const { error } = JSON.parse(body);
      assert.equal(error.code, Number(answer.slice(9, 12)), `${what}: ${answer}`);
      assert.equal(typeof error.message, 'string');
      assert.match(answer, /x-openstack-request-id: req-/i, what);
    }
  });

  it('by a method that is not offered is refused', async () => {
    for (const path of new Set(routes.map((route) => pathOf(route, ids)))) {
      for (const method of ['TRACE', 'OPTIONS', 'PUT', 'PATCH', 'PROPFIND', 'DELETE', 'POST']) {
        if (routes.some((route) => pathOf(route, ids) === path && route.method === method)) continue;
        checkRefused(path, await send(method, path), method);
      }
    }
  });

  it('has changed nothing: the same process serves, the guest runs on, no bug was met', async () => {
    await removeMade();
    await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${inert}`);
    await lab.cloud.waitUntilGone(inert);
    assert.equal(lab.service.pid, pid);
    assert.deepEqual(await lab.guests(), guests);
    const server = await lab.settled(ids.servers);
    assert.equal(server?.status, 'ACTIVE');
    const log = await lab.service.log();
    assert.deepEqual(
      log.split('\n').filter((line) => line.includes('"level":50')),
      [],
    );
    await lab.expectTidy();
    const answer = await send('GET', '/compute/v2.1/servers/detail');
    assert.equal(answer.status, 200);
    assert.ok(!Object.hasOwn(Object.prototype, 'isAdmin'));
  });
});
