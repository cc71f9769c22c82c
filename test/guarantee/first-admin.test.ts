import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { changeUser } from '#identity/builtin/accounts.ts';
import { type AdminCredentials, bootstrapIdentity } from '#identity/builtin/bootstrap.ts';
import { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';
import { startTestDatabase, type TestDatabase } from '#test/support/database.ts';

let database: TestDatabase;
before(async () => {
  database = await startTestDatabase();
});
after(() => database[Symbol.asyncDispose]());

async function canLogIn({ userName, password, projectName }: AdminCredentials): Promise<boolean> {
  const domain = { id: 'default' };
  const issued = await new BuiltinIdentity(database.db).issue(
    [{ method: 'password', user: { name: userName, domain }, password }],
    { project: { name: projectName, domain } },
  );
  return issued?.details.roles.some((role) => role.name === 'admin') ?? false;
}

// The tests build on one another, from an empty database on.
describe('the first admin', () => {
  it('is not made when its password cannot be kept', async () => {
    const failing = bootstrapIdentity(database.db, () => Promise.reject(new Error('disk full')));
    await assert.rejects(failing, /disk full/);
    assert.deepEqual(await database.db.selectFrom('users').selectAll().execute(), []);
  });

  it('is made once, however many start at once, and its password is kept before it works', async () => {
    const kept: AdminCredentials[] = [];
    const keep = async (credentials: AdminCredentials) => {
      assert.equal(await canLogIn(credentials), false);
      kept.push(credentials);
    };
    const results = await Promise.all([0, 1, 2].map(() => bootstrapIdentity(database.db, keep)));
    const made = results.filter((result) => result !== null);
    assert.deepEqual(made, kept);
    assert.equal(made.length, 1);
    for (const credentials of made) assert.equal(await canLogIn(credentials), true);
    assert.equal(await bootstrapIdentity(database.db), null);
  });

  it('comes back with a new password when no admin is left', async () => {
    const [admin] = await database.db.selectFrom('users').selectAll().where('name', '=', 'admin').execute();
    assert.ok(admin);
    await changeUser(database.db, admin.id, { enabled: false });
    const results = await Promise.all([0, 1, 2].map(() => bootstrapIdentity(database.db)));
    const made = results.filter((result) => result !== null);
    assert.equal(made.length, 1);
    for (const credentials of made) assert.equal(await canLogIn(credentials), true);
  });
});
