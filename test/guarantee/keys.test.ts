import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { format, inspect } from 'node:util';
import { serialize } from 'node:v8';
import fc from 'fast-check';
import pino from 'pino';
import { NightlatchError } from '#core/errors.ts';
import { newId, type ProjectId, type SecretId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { ROOT_KEY_CREDENTIAL, ROOT_KEY_VARIABLE, type RootKey, readRootKey } from '#keys/local/root-key.ts';
import { unwrap, wrap } from '#keys/local/wrap.ts';
import { startTestDatabase, type TestDatabase } from '#test/support/database.ts';

function textOf(secret: Secret): string {
  return secret.use((bytes) => bytes.toString('latin1'));
}

/** Every spelling in which bytes get out by accident. */
function spellings(secret: Secret): string[] {
  return secret.use((bytes) => [
    bytes.toString('latin1'),
    bytes.toString('hex'),
    bytes.toString('base64'),
    bytes.toString('base64url'),
    [...bytes].join(','),
    inspect(bytes).slice(8, 60),
  ]);
}

/** What a pino logger with our settings writes for these arguments. */
function logged(...args: Parameters<pino.BaseLogger['info']>): string {
  const lines: string[] = [];
  pino({ level: 'debug' }, { write: (line: string) => void lines.push(line) }).info(...args);
  return lines.join('');
}

describe('a secret has no text form', () => {
  const ways: Record<string, (secret: Secret) => string> = {
    'String()': (secret) => String(secret),
    'a template': (secret) => `${secret}`,
    'adding to a string': (secret) => `key: ${secret as unknown as string}`,
    'joining a list': (secret) => [secret, secret].join(' '),
    'util.inspect of all there is': (secret) => inspect({ secret }, { showHidden: true, depth: null, getters: true }),
    'util.format, as console.log': (secret) => format('%s %o %O %j', secret, secret, secret, secret),
    'JSON, also inside other things': (secret) => JSON.stringify({ a: [secret], b: new Map([['k', secret]]), secret }),
    'its own properties': (secret) => JSON.stringify(Object.entries(Object.getOwnPropertyDescriptors(secret))),
    'spreading it': (secret) => JSON.stringify({ ...secret }) + JSON.stringify(Object.assign({}, secret)),
    structuredClone: (secret) => inspect(structuredClone(secret), { showHidden: true, depth: null }),
    'a message to another process': (secret) => serialize({ secret }).toString('latin1'),
    'a log line': (secret) => logged({ secret, nested: { key: secret } }, 'key %s %o %j', secret, secret, secret),
    'an error in a log line': (secret) =>
      logged({ err: Object.assign(new Error(`bad ${secret}`), { secret, cause: secret }) }),
    'an error from the catalogue': (secret) =>
      new NightlatchError('bad-request', { reason: secret as unknown as string }).message,
  };
  for (const [way, print] of Object.entries(ways)) {
    it(`not by ${way}`, () => {
      using secret = Secret.generate();
      const text = print(secret);
      assert.ok(text.length > 0);
      for (const spelling of spellings(secret)) assert.ok(!text.includes(spelling), `${way} shows it: ${text}`);
    });
  }
});

describe('a secret', () => {
  it('is 256 fresh random bits in 64 hexadecimal digits', () => {
    const seen = new Set<string>();
    for (let i = 0; i < 100; i++) {
      using secret = Secret.generate();
      assert.match(textOf(secret), /^[0-9a-f]{64}$/);
      seen.add(textOf(secret));
    }
    assert.equal(seen.size, 100);
  });

  it('is zeroed at the end of its scope, also when that ends by an error, and cannot be used after', () => {
    let kept: Buffer | undefined;
    let escaped: Secret | undefined;
    assert.throws(() => {
      using secret = Secret.generate();
      escaped = secret;
      kept = secret.use((bytes) => bytes);
      throw new Error('work failed');
    }, /work failed/);
    assert.deepEqual(kept, Buffer.alloc(64));
    assert.throws(() => escaped?.use(() => 0), /after it was zeroed/);
    assert.throws(() => escaped?.copy(), /after it was zeroed/);
  });

  it('is not shared by its copy, and owns what it adopts', () => {
    const bytes = Buffer.from('adopted');
    const first = Secret.adopt(bytes);
    using second = first.copy();
    first[Symbol.dispose]();
    assert.deepEqual(bytes, Buffer.alloc(7));
    assert.equal(textOf(second), 'adopted');
  });
});

const ids = fc.uuid().map((id) => id as unknown);
const binding = fc.record({ id: ids, projectId: ids }) as fc.Arbitrary<{ id: SecretId; projectId: ProjectId }>;
const bytes = (constraints: { minLength: number; maxLength: number }) =>
  fc.uint8Array(constraints).map((array) => Buffer.from(array));

describe('a wrapped secret', () => {
  it('opens to what was wrapped, under the same root key, id and project', () => {
    const key = bytes({ minLength: 32, maxLength: 32 });
    fc.assert(
      fc.property(key, binding, bytes({ minLength: 1, maxLength: 200 }), (root, where, plain) => {
        using rootKey = Secret.adopt(Buffer.from(root));
        using secret = Secret.adopt(Buffer.from(plain));
        using opened = unwrap(rootKey, where, wrap(rootKey, where, secret));
        assert.ok(opened.equals(secret));
      }),
    );
  });

  it('does not open under anything else, nor with any bit changed', () => {
    fc.assert(
      fc.property(binding, binding, fc.nat(), fc.nat(7), (where, elsewhere, at, bit) => {
        using rootKey = Secret.adopt(randomBytes(32));
        using otherKey = Secret.adopt(randomBytes(32));
        using secret = Secret.generate();
        const { nonce, wrapped } = wrap(rootKey, where, secret);
        const whole = Buffer.concat([nonce, wrapped]);
        whole[at % whole.length] = (whole[at % whole.length] ?? 0) ^ (1 << bit);
        const damaged = { nonce: whole.subarray(0, nonce.length), wrapped: whole.subarray(nonce.length) };
        assert.throws(() => unwrap(rootKey, where, damaged));
        assert.throws(() => unwrap(otherKey, where, { nonce, wrapped }));
        assert.throws(() => unwrap(rootKey, { ...where, id: elsewhere.id }, { nonce, wrapped }));
        assert.throws(() => unwrap(rootKey, { ...where, projectId: elsewhere.projectId }, { nonce, wrapped }));
        assert.throws(() => unwrap(rootKey, where, { nonce, wrapped: wrapped.subarray(0, at % wrapped.length) }));
      }),
    );
  });
});

describe('the local key store', () => {
  let database: TestDatabase;
  before(async () => {
    database = await startTestDatabase();
  });
  after(() => database[Symbol.asyncDispose]());

  const one = newId<ProjectId>();
  const two = newId<ProjectId>();
  const rootKey = (id: string): RootKey => {
    const key = Secret.adopt(randomBytes(32));
    return { id, key, [Symbol.dispose]: () => key[Symbol.dispose]() };
  };
  const root = rootKey('first');

  async function stored(projectId: ProjectId) {
    const store = new LocalKeyStore(database.db, root);
    const secret = Secret.generate();
    const id = await store.store({ projectId, label: newId(), name: 'a disk' }, secret);
    return { store, secret, id };
  }

  it('gives back what was stored, and its rows hold it in no spelling', async () => {
    const { store, secret, id } = await stored(one);
    using found = await store.get(one, id);
    assert.ok(found.equals(secret));
    const row = await database.db.selectFrom('secrets').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
    const everything = Buffer.from(`${inspect(row, { depth: null, maxArrayLength: null })}`);
    for (const spelling of spellings(secret)) assert.ok(!everything.includes(spelling));
    assert.ok(!row.wrapped.includes(textOf(secret)));
    assert.ok(!row.wrapped.includes(Buffer.from(textOf(secret), 'hex')));
  });

  it('keeps the first secret under a label', async () => {
    const store = new LocalKeyStore(database.db, root);
    const label = { projectId: one, label: newId(), name: 'a disk' };
    using first = Secret.generate();
    using second = Secret.generate();
    const ids = await Promise.all([first, second, first].map((secret) => store.store(label, secret)));
    assert.equal(new Set(ids).size, 1);
    using kept = await store.get(one, ids[0] as SecretId);
    const again = await store.store(label, second);
    using still = await store.get(one, again);
    assert.ok(still.equals(kept));
  });

  it('notices bytes that were swapped between two rows', async () => {
    const [a, b] = [await stored(one), await stored(one)];
    const rows = await database.db.selectFrom('secrets').selectAll().where('id', 'in', [a.id, b.id]).execute();
    for (const { id } of rows) {
      const other = rows.find((row) => row.id !== id);
      assert.ok(other);
      const { nonce, wrapped } = other;
      await database.db.updateTable('secrets').set({ nonce, wrapped }).where('id', '=', id).execute();
    }
    await assert.rejects(a.store.get(one, a.id), { code: 'key-corrupt' });
    await assert.rejects(b.store.get(one, b.id), { code: 'key-corrupt' });
  });

  it('notices a row that was moved to another project, and gives none to a project that does not own it', async () => {
    const { store, id } = await stored(one);
    await assert.rejects(store.get(two, id), { code: 'key-unavailable' });
    await database.db.updateTable('secrets').set({ project_id: two }).where('id', '=', id).execute();
    await assert.rejects(store.get(two, id), { code: 'key-corrupt' });
  });

  it('says under which root key a secret was stored when it has another', async () => {
    const { id } = await stored(one);
    const withOther = new LocalKeyStore(database.db, rootKey('second'));
    await assert.rejects(withOther.get(one, id), {
      code: 'key-corrupt',
      message: /stored under root key first.*Check that the root key is the one it was stored under/,
    });
    const refused = { code: 'bad-request', message: /secrets are stored under root key first and would not open/ };
    await assert.rejects(LocalKeyStore.open(database.db, rootKey('second')), refused);
    const withForged = await LocalKeyStore.open(database.db, rootKey('first'));
    await assert.rejects(withForged.get(one, id), { code: 'key-corrupt' });
  });
});

describe('the root key', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp('/var/tmp/nightlatch-test-');
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function keyFile(name: string, mode = 0o600, length = 32): Promise<string> {
    const path = join(folder, name);
    await writeFile(path, randomBytes(length));
    await chmod(path, mode);
    return path;
  }

  /** The id of the key that is read; the key itself is zeroed. */
  async function idOf(configured: string, environment: NodeJS.ProcessEnv = {}): Promise<string> {
    using key = await readRootKey(configured, environment);
    return key.id;
  }

  const refused: [string, () => Promise<string>, RegExp][] = [
    ['readable by all', () => keyFile('open', 0o644), /mode is 0644\. Run: chmod 0600 .*open$/],
    ['readable by its group', () => keyFile('group', 0o640), /mode is 0640\. Run: chmod 0600 .*group$/],
    ['writable by others', () => keyFile('writable', 0o602), /mode is 0602\. Run: chmod 0600/],
    ['too short', () => keyFile('short', 0o600, 31), /holds 31 bytes\. A root key is 32 random bytes/],
    ['too long', () => keyFile('long', 0o600, 33), /holds 33 bytes\. A root key is 32 random bytes/],
    ['empty', () => keyFile('empty', 0o600, 0), /holds 0 bytes/],
    [
      'of another owner',
      async () => {
        const path = await keyFile('foreign');
        await chown(path, 65534, 65534);
        return path;
      },
      /belongs to user id 65534\. Run: chown 0 .*foreign$/,
    ],
    [
      'a symbolic link',
      async () => {
        const path = join(folder, 'link');
        await symlink(await keyFile('target'), path);
        return path;
      },
      /cannot be opened \(ELOOP\)\. Put the root key there/,
    ],
    [
      'a folder',
      async () => {
        const path = join(folder, 'folder');
        await mkdir(path, { mode: 0o700 });
        return path;
      },
      /it is not a regular file/,
    ],
  ];
  for (const [what, make, message] of refused) {
    it(`is refused when its file is ${what}, with what to do`, async () => {
      const path = await make();
      const expected = { code: 'bad-request', message };
      await assert.rejects(idOf(path), expected);
      await assert.rejects(idOf('/nonexistent', { [ROOT_KEY_VARIABLE]: path }), expected);
    });
  }

  it('is made once at the first start, readable by its owner alone, and leaves nothing else', async () => {
    const parent = await mkdtemp(join(folder, 'first-'));
    const path = join(parent, 'root.key');
    const names = await Promise.all([0, 1, 2, 3].map(() => idOf(path)));
    assert.equal(new Set(names).size, 1);
    assert.equal(await idOf(path), names[0]);
    const { mode, size } = await stat(path);
    assert.deepEqual([mode & 0o777, size], [0o600, 32]);
    assert.deepEqual(await readdir(parent), ['root.key']);
    assert.ok(!(await readFile(path)).toString('hex').includes(names[0] ?? ''), 'its name says nothing of its bytes');
  });

  it('is never made where the environment names a file or systemd a credential', async () => {
    const absent = join(folder, 'absent');
    await mkdir(absent);
    const named = { [ROOT_KEY_VARIABLE]: join(absent, 'key') };
    await assert.rejects(idOf(join(absent, 'configured'), named), { message: /ENOENT\)\. Put the root key there/ });
    await assert.rejects(idOf(join(absent, 'configured'), { CREDENTIALS_DIRECTORY: absent }), { message: /ENOENT/ });
    assert.deepEqual(await readdir(absent), []);
  });

  it('is taken from the environment, else the systemd credential, else the configured file', async () => {
    const credentials = join(folder, 'credentials');
    await mkdir(credentials, { mode: 0o700 });
    const named = await keyFile('named');
    const configured = await keyFile('configured');
    // systemd makes its copy readable for the unit's group where it has one.
    const credential = await keyFile(join('credentials', ROOT_KEY_CREDENTIAL), 0o440);
    const all = { [ROOT_KEY_VARIABLE]: named, CREDENTIALS_DIRECTORY: credentials };
    assert.equal(await idOf(configured, all), await idOf(named));
    const { size } = await stat(credential);
    assert.equal(size, 32);
    const byCredential = await idOf(configured, { CREDENTIALS_DIRECTORY: credentials });
    await chmod(credential, 0o600);
    assert.equal(byCredential, await idOf(credential));
    assert.equal(new Set([await idOf(named), byCredential, await idOf(configured)]).size, 3);
  });
});
