import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';
import { type ApiLab, logIn, type Person, startApiLab } from '#test/support/api-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

let lab: ApiLab;
before(async () => {
  lab = await startApiLab();
});
after(() => lab[Symbol.asyncDispose]());

const domain = { id: 'default' };
const tokens = '/identity/v3/auth/tokens';

function passwordAuth(name: string, password: string, scope?: unknown): object {
  const identity = { methods: ['password'], password: { user: { name, domain: { name: 'Default' }, password } } };
  return { auth: { identity, ...(scope === undefined ? {} : { scope }) } };
}

async function isValid(token: string): Promise<boolean> {
  const answer = await lab.call('GET', '/identity/v3/auth/projects', { token });
  assert.ok([200, 401].includes(answer.statusCode), answer.body);
  return answer.statusCode === 200;
}

/** Logs in anew, does something, and says whether the token is still good. */
async function survives(person: Person, work: () => Promise<{ statusCode: number; body: string }>): Promise<boolean> {
  const { token } = await logIn(lab.identity, person.name, person.password, person.projectName);
  assert.equal(await isValid(token), true);
  const answer = await work();
  assert.ok(answer.statusCode < 300, `${answer.statusCode} ${answer.body}`);
  return await isValid(token);
}

describe('discovery', () => {
  it('needs no token and leads to v3 as the client reached it', async () => {
    const versions = await lab.call('GET', '/identity', { headers: { host: 'cloud.example:8080' } });
    assert.equal(versions.statusCode, 300);
    assert.equal(versions.json().versions.values[0].links[0].href, 'http://cloud.example:8080/identity/v3/');
    assert.equal((await lab.call('GET', '/identity/v3/')).json().version.id, 'v3.14');
    assert.deepEqual(
      (await lab.call('GET', '/')).json().services.map((service: { type: string }) => service.type),
      ['identity', 'image'],
    );
  });

  it('names every request itself, whatever the client says', async () => {
    const answer = await lab.call('GET', '/identity/v3', { headers: { 'x-openstack-request-id': 'req-mine' } });
    assert.match(String(answer.headers['x-openstack-request-id']), /^req-[0-9a-f-]{36}$/);
  });
});

describe('tokens', () => {
  it('are given for a password, scoped to a project, with roles implied and a catalog', async () => {
    const scope = { project: { name: 'admin', domain } };
    const answer = await lab.call('POST', tokens, {
      body: passwordAuth('admin', lab.adminCredentials.password, scope),
    });
    assert.equal(answer.statusCode, 201);
    const { token } = answer.json();
    assert.deepEqual(token.methods, ['password']);
    assert.deepEqual(token.roles.map((role: { name: string }) => role.name).sort(), ['admin', 'member', 'reader']);
    assert.equal(token.project.name, 'admin');
    assert.deepEqual(
      token.catalog[0].endpoints.map((endpoint: { interface: string }) => endpoint.interface),
      ['public', 'internal', 'admin'],
    );
    const subject = String(answer.headers['x-subject-token']);
    const shown = await lab.call('GET', tokens, { token: subject, headers: { 'x-subject-token': subject } });
    assert.deepEqual(shown.json().token, token);
    const bare = await lab.call('GET', `${tokens}?nocatalog`, {
      token: subject,
      headers: { 'x-subject-token': subject },
    });
    assert.equal(bare.json().token.catalog, undefined);
    const head = await lab.call('HEAD', tokens, { token: subject, headers: { 'x-subject-token': subject } });
    assert.deepEqual([head.statusCode, head.body], [200, '']);
  });

  it('are unscoped when asked so, and then good for no project', async () => {
    for (const scope of ['unscoped', { unscoped: {} }, undefined]) {
      const answer = await lab.call('POST', tokens, { body: passwordAuth('alice', lab.alice.password, scope) });
      assert.equal(answer.statusCode, 201);
      assert.equal(answer.json().token.project, undefined);
      const token = String(answer.headers['x-subject-token']);
      assert.equal((await lab.call('GET', '/image/v2/images', { token })).statusCode, 403);
    }
  });

  it('are scoped to the default project of a user who names no scope', async () => {
    const answer = await lab.call('POST', tokens, { body: passwordAuth('admin', lab.adminCredentials.password) });
    assert.equal(answer.json().token.project.name, 'admin');
  });

  it('are given for a token, and end no later than that one', async () => {
    const identity = { methods: ['token'], token: { id: lab.alice.token } };
    const body = { auth: { identity, scope: { project: { id: lab.alice.projectId } } } };
    const answer = await lab.call('POST', tokens, { body });
    assert.equal(answer.statusCode, 201);
    const first = await lab.identity.describe(lab.alice.token);
    assert.equal(new Date(answer.json().token.expires_at).getTime(), first?.expiresAt.getTime());
    assert.deepEqual(answer.json().token.methods, ['token', 'password']);
  });

  it('are refused alike for every reason', async () => {
    const one = { project: { name: 'one', domain } };
    const refused = [
      passwordAuth('alice', 'wrong', one),
      passwordAuth('nobody', 'wrong', one),
      passwordAuth('alice', lab.alice.password, { project: { name: 'two', domain } }),
      passwordAuth('alice', lab.alice.password, { project: { name: 'none', domain } }),
      passwordAuth('alice', lab.alice.password, { project: { name: 'one', domain: { name: 'Other' } } }),
      { auth: { identity: { methods: ['token'], token: { id: 'made-up' } } } },
      {
        auth: {
          identity: {
            methods: ['password', 'token'],
            token: { id: lab.bob.token },
            password: { user: { id: lab.alice.userId, password: lab.alice.password } },
          },
        },
      },
    ];
    const bodies = new Set<string>();
    for (const body of refused) {
      const answer = await lab.call('POST', tokens, { body });
      assert.equal(answer.statusCode, 401, JSON.stringify(body));
      assert.equal(answer.headers['www-authenticate'], 'Keystone uri="http://localhost:80/identity"');
      bodies.add(answer.body);
    }
    assert.equal(bodies.size, 1);
  });

  it('are refused for a name that does not exist no faster than for a wrong password', async () => {
    const time = async (name: string): Promise<number> => {
      const times: number[] = [];
      for (let i = 0; i < 5; i += 1) {
        const start = performance.now();
        await lab.call('POST', tokens, { body: passwordAuth(name, 'wrong') });
        times.push(performance.now() - start);
      }
      return times.sort((a, b) => a - b)[2] ?? 0;
    };
    const [known, unknown] = [await time('alice'), await time('nobody')];
    assert.ok(unknown > known / 3, `${unknown} ms against ${known} ms`);
  });

  it('are stored as hashes only, as are passwords', async () => {
    const rows = await lab.db.selectFrom('tokens').selectAll().execute();
    const users = await lab.db.selectFrom('users').selectAll().execute();
    const text = JSON.stringify([
      rows.map((row) => [row, row.hash.toString('latin1'), row.hash.toString('base64url')]),
      users,
    ]);
    assert.ok(rows.length > 0);
    for (const secret of [lab.alice.token, lab.admin.token, lab.alice.password]) assert.ok(!text.includes(secret));
  });

  it('end when their time is over', async () => {
    const short = new BuiltinIdentity(lab.db, { tokenLifetimeSeconds: 1 });
    const { token } = await logIn(short, 'alice', lab.alice.password, 'one');
    assert.equal(await isValid(token), true);
    await waitUntil('the token ends', async () => !(await isValid(token)), 5000);
  });

  it('end when revoked, by their holder or an admin and nobody else', async () => {
    const { token } = await logIn(lab.identity, 'alice', lab.alice.password, 'one');
    const subject = { 'x-subject-token': token };
    for (const method of ['GET', 'DELETE']) {
      assert.equal((await lab.call(method, tokens, { token: lab.bob.token, headers: subject })).statusCode, 403);
    }
    assert.equal((await lab.call('GET', tokens, { token: lab.admin.token, headers: subject })).statusCode, 200);
    assert.equal((await lab.call('DELETE', tokens, { token, headers: subject })).statusCode, 204);
    assert.equal(await isValid(token), false);
    assert.equal((await lab.call('GET', tokens, { token: lab.admin.token, headers: subject })).statusCode, 404);
  });

  it('end with what they stand for', async () => {
    const admin = lab.admin.token;
    const carl = await lab.addPerson('carl', 'three', 'member');
    const user = `/identity/v3/users/${carl.userId}`;
    const project = `/identity/v3/projects/${carl.projectId}`;
    const [role] = (await lab.call('GET', '/identity/v3/roles?name=member', { token: admin })).json().roles;
    const grant = `${project}/users/${carl.userId}/roles/${role.id}`;
    const patch = (url: string, body: unknown) => () => lab.call('PATCH', url, { token: admin, body });

    assert.equal(await survives(carl, patch(user, { user: { description: 'x' } })), true);
    assert.equal(await survives(carl, patch(user, { user: { enabled: false } })), false);
    await patch(user, { user: { enabled: true } })();
    assert.equal(await survives(carl, patch(project, { project: { enabled: false } })), false);
    await patch(project, { project: { enabled: true } })();
    assert.equal(await survives(carl, () => lab.call('DELETE', grant, { token: admin })), false);
    await lab.call('PUT', grant, { token: admin });
    const change = { user: { original_password: carl.password, password: 'another' } };
    assert.equal(
      await survives(carl, async () => {
        const { token } = await logIn(lab.identity, carl.name, carl.password, carl.projectName);
        return await lab.call('POST', `${user}/password`, { token, body: change });
      }),
      false,
    );
    const changed = { ...carl, password: 'another' };
    assert.equal(await survives(changed, () => lab.call('DELETE', user, { token: admin })), false);
  });

  it('end with the role they were given for', async () => {
    const made = await lab.call('POST', '/identity/v3/roles', {
      token: lab.admin.token,
      body: { role: { name: 'creator' } },
    });
    assert.equal(made.statusCode, 201);
    const dora = await lab.addPerson('dora', 'four', 'creator');
    // Another role stays: the token does not live on with less.
    const [member] = (await lab.call('GET', '/identity/v3/roles?name=member', { token: lab.admin.token })).json().roles;
    const grant = `/identity/v3/projects/${dora.projectId}/users/${dora.userId}/roles/${member.id}`;
    assert.equal((await lab.call('PUT', grant, { token: lab.admin.token })).statusCode, 204);
    const remove = () => lab.call('DELETE', `/identity/v3/roles/${made.json().role.id}`, { token: lab.admin.token });
    assert.equal(await survives(dora, remove), false);
  });
});

/** Every identity endpoint that needs a token, with what a member of another project gets. */
function endpoints(): [method: string, route: string, url: string, body: unknown, asBob: number][] {
  const { userId, projectId } = lab.alice;
  const grant = `/identity/v3/projects/${projectId}/users/${userId}/roles`;
  const v3 = '/identity/v3';
  const one = (name: string, asBob: number): [string, string, string, unknown, number][] => [
    ['GET', `/${name}`, `${v3}/${name}`, undefined, asBob],
    ['GET', `/${name}/:id`, `${v3}/${name}/some-id`, undefined, name === 'regions' || name === 'domains' ? 404 : 403],
  ];
  return [
    ['GET', '/auth/tokens', `${v3}/auth/tokens`, undefined, 403],
    ['DELETE', '/auth/tokens', `${v3}/auth/tokens`, undefined, 403],
    ['GET', '/auth/catalog', `${v3}/auth/catalog`, undefined, 200],
    ['GET', '/auth/projects', `${v3}/auth/projects`, undefined, 200],
    ['GET', '/auth/domains', `${v3}/auth/domains`, undefined, 200],
    ['GET', '/projects', `${v3}/projects`, undefined, 403],
    ['POST', '/projects', `${v3}/projects`, { project: { name: 'x' } }, 403],
    ['GET', '/projects/:id', `${v3}/projects/${projectId}`, undefined, 403],
    ['PATCH', '/projects/:id', `${v3}/projects/${projectId}`, { project: { name: 'x' } }, 403],
    ['DELETE', '/projects/:id', `${v3}/projects/${projectId}`, undefined, 403],
    ['GET', '/users', `${v3}/users`, undefined, 403],
    ['POST', '/users', `${v3}/users`, { user: { name: 'x' } }, 403],
    ['GET', '/users/:id', `${v3}/users/${userId}`, undefined, 403],
    ['PATCH', '/users/:id', `${v3}/users/${userId}`, { user: { name: 'x' } }, 403],
    ['DELETE', '/users/:id', `${v3}/users/${userId}`, undefined, 403],
    ['GET', '/users/:id/projects', `${v3}/users/${userId}/projects`, undefined, 403],
    [
      'POST',
      '/users/:id/password',
      `${v3}/users/${userId}/password`,
      { user: { original_password: 'x', password: 'y' } },
      403,
    ],
    ['POST', '/roles', `${v3}/roles`, { role: { name: 'x' } }, 403],
    ['DELETE', '/roles/:id', `${v3}/roles/some-id`, undefined, 403],
    ['GET', '/role_assignments', `${v3}/role_assignments?user.id=${userId}`, undefined, 403],
    ['GET', '/projects/:project/users/:user/roles', grant, undefined, 403],
    ['GET', '/projects/:project/users/:user/roles/:role', `${grant}/some-id`, undefined, 403],
    ['PUT', '/projects/:project/users/:user/roles/:role', `${grant}/some-id`, undefined, 403],
    ['DELETE', '/projects/:project/users/:user/roles/:role', `${grant}/some-id`, undefined, 403],
    ...one('roles', 403),
    ...one('services', 403),
    ...one('endpoints', 403),
    ...one('domains', 403),
    ...one('regions', 200),
  ];
}

describe('every endpoint', () => {
  it('is in the table of this test', () => {
    const open = ['GET /identity', 'GET /identity/v3', `POST ${tokens}`];
    const listed = [...open, ...endpoints().map(([method, route]) => `${method} /identity/v3${route}`)];
    const real = lab.routes.filter((route) => route.includes(' /identity')).map((route) => route.replace(/\/$/, ''));
    assert.deepEqual(listed.sort(), [...new Set(real)].sort());
  });

  it('refuses who has no token, or one that is none', async () => {
    for (const [method, , url, body] of endpoints()) {
      for (const headers of [{}, { 'x-auth-token': 'made-up' }, { 'x-auth-token': '' }]) {
        const answer = await lab.call(method, url, { body, headers });
        assert.equal(answer.statusCode, 401, `${method} ${url}`);
        assert.equal(answer.json().error.code, 401);
      }
    }
  });

  it('keeps a member of another project out', async () => {
    for (const [method, , url, body, expected] of endpoints()) {
      const headers = { 'x-subject-token': lab.alice.token };
      const answer = await lab.call(method, url, { token: lab.bob.token, body, headers });
      assert.equal(answer.statusCode, expected, `${method} ${url}: ${answer.body}`);
      for (const hidden of [lab.alice.userId, lab.alice.projectId]) assert.ok(!answer.body.includes(hidden));
    }
    assert.equal(await isValid(lab.alice.token), true);
  });
});

describe('members', () => {
  it('see themselves and their projects', async () => {
    const { token, userId, projectId } = lab.alice;
    assert.equal((await lab.call('GET', `/identity/v3/users/${userId}`, { token })).json().user.name, 'alice');
    assert.equal((await lab.call('GET', `/identity/v3/projects/${projectId}`, { token })).json().project.name, 'one');
    for (const url of ['/identity/v3/auth/projects', `/identity/v3/users/${userId}/projects`]) {
      const { projects } = (await lab.call('GET', url, { token })).json();
      assert.deepEqual(
        projects.map((project: { name: string }) => project.name),
        ['one'],
      );
    }
  });

  it('change their password only with the old one', async () => {
    const url = `/identity/v3/users/${lab.alice.userId}/password`;
    const body = { user: { original_password: 'wrong', password: 'new' } };
    assert.equal((await lab.call('POST', url, { token: lab.alice.token, body })).statusCode, 401);
    assert.equal(await isValid(lab.alice.token), true);
  });
});

describe('an admin', () => {
  it('makes, finds, changes and removes projects', async () => {
    const { token } = lab.admin;
    const made = await lab.call('POST', '/identity/v3/projects', {
      token,
      body: { project: { name: 'p', description: 'd' } },
    });
    assert.equal(made.statusCode, 201);
    const { id } = made.json().project;
    const again = await lab.call('POST', '/identity/v3/projects', { token, body: { project: { name: 'p' } } });
    assert.equal(again.statusCode, 409);
    const found = await lab.call('GET', '/identity/v3/projects?name=p&domain_id=default&enabled=true', { token });
    assert.deepEqual(
      found.json().projects.map((project: { id: string }) => project.id),
      [id],
    );
    const taken = await lab.call('PATCH', `/identity/v3/projects/${id}`, { token, body: { project: { name: 'one' } } });
    assert.equal(taken.statusCode, 409);
    assert.equal((await lab.call('DELETE', `/identity/v3/projects/${id}`, { token })).statusCode, 204);
    assert.equal((await lab.call('GET', `/identity/v3/projects/${id}`, { token })).statusCode, 404);
  });

  it('gives and takes roles, and sees who has them', async () => {
    const { token } = lab.admin;
    const [role] = (await lab.call('GET', '/identity/v3/roles?name=reader', { token })).json().roles;
    const grant = `/identity/v3/projects/${lab.alice.projectId}/users/${lab.bob.userId}/roles/${role.id}`;
    assert.equal((await lab.call('HEAD', grant, { token })).statusCode, 404);
    assert.equal((await lab.call('PUT', grant, { token })).statusCode, 204);
    assert.equal((await lab.call('PUT', grant, { token })).statusCode, 204);
    assert.equal((await lab.call('HEAD', grant, { token })).statusCode, 204);
    const query = `user.id=${lab.bob.userId}&scope.project.id=${lab.alice.projectId}&include_names`;
    const { role_assignments } = (await lab.call('GET', `/identity/v3/role_assignments?${query}`, { token })).json();
    assert.deepEqual(
      role_assignments.map((one: { role: { name: string } }) => one.role.name),
      ['reader'],
    );
    assert.equal((await lab.call('DELETE', grant, { token })).statusCode, 204);
    assert.equal((await lab.call('DELETE', grant, { token })).statusCode, 404);
  });

  it('cannot delete the roles that policy speaks of', async () => {
    const { token } = lab.admin;
    for (const role of (await lab.call('GET', '/identity/v3/roles', { token })).json().roles) {
      assert.equal((await lab.call('DELETE', `/identity/v3/roles/${role.id}`, { token })).statusCode, 403);
    }
  });
});

describe('bad input', () => {
  const bad: [string, unknown, number][] = [
    ['an unknown field', { project: { name: 'x', colour: 'red' } }, 400],
    ['a wrong type', { project: { name: 7 } }, 400],
    ['a number as text', { project: { name: 'x', enabled: 'true' } }, 400],
    ['an empty name', { project: { name: '' } }, 400],
    ['a name of 1 MiB', { project: { name: 'x'.repeat(1024 * 1024) } }, 400],
    ['a name of 5 MiB', { project: { name: 'x'.repeat(5 * 1024 * 1024) } }, 413],
    ['no object', [], 400],
    ['no body', undefined, 400],
    ['another domain', { project: { name: 'x', domain_id: 'other' } }, 400],
  ];
  for (const [what, body, status] of bad) {
    it(`answers ${what} with ${status}, shortly`, async () => {
      const answer = await lab.call('POST', '/identity/v3/projects', { token: lab.admin.token, body });
      assert.equal(answer.statusCode, status, answer.body.slice(0, 300));
      assert.equal(answer.json().error.code, status);
      assert.ok(answer.body.length < 1000);
    });
  }

  it('never repeats a password', async () => {
    const secret = 'correct horse battery';
    const bodies = [
      `{"auth": {"identity": {"methods": ["password"], "password": {"user": {"password": "${secret}"`,
      `"${secret}"`,
      JSON.stringify(passwordAuth(secret, secret, { project: { name: 3 } })),
      JSON.stringify({ auth: { identity: { methods: ['password'], password: { user: secret } } } }),
    ];
    for (const body of bodies) {
      const answer = await lab.call('POST', tokens, { body });
      assert.equal(answer.statusCode, 400);
      assert.ok(!answer.body.includes('horse'), answer.body);
    }
  });

  it('tells an unknown path from an unknown method', async () => {
    const path = await lab.call('GET', '/identity/v3/nothing', { token: lab.admin.token });
    assert.deepEqual([path.statusCode, path.json().error.title], [404, 'Not Found']);
    const method = await lab.call('PUT', '/identity/v3/projects/x', { token: lab.admin.token });
    assert.deepEqual([method.statusCode, method.headers.allow], [405, 'DELETE, GET, HEAD, PATCH']);
  });

  it('answers an address that makes no sense in the shape of the service', async () => {
    for (const url of ['/identity/v3/users/%zz', `/identity/v3/users/${'x'.repeat(5000)}`]) {
      const answer = await lab.call('GET', url, { token: lab.admin.token });
      assert.ok([400, 404, 414].includes(answer.statusCode), `${answer.statusCode}`);
      assert.equal(answer.json().error?.code, answer.statusCode, answer.body);
      assert.ok(answer.body.length < 1000 && answer.headers['x-openstack-request-id']);
    }
  });

  it('refuses methods of logging in that are not offered', async () => {
    const body = { auth: { identity: { methods: ['totp'] } } };
    assert.equal((await lab.call('POST', tokens, { body })).statusCode, 400);
  });
});
