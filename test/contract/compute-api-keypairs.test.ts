import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import sshpk from 'sshpk';
import { configDriveFiles } from '#core/config-drive.ts';
import type { UserId } from '#core/ids.ts';
import { addImage, type Call, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/** Key pairs of users, and of the servers that are given one. */
describe('key pairs', () => {
  let lab: ComputeLab;
  const ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0Y3yN5vUxC2bq3Lr8sH2F0lXQ2Zb9m2sKz1G1l0T8r me@here';

  before(async () => {
    lab = await openComputeLab();
  });
  after(async () => lab[Symbol.asyncDispose]());

  const make = (keypair: object, call: Call = {}) =>
    lab.call('POST', '/os-keypairs', { version: '2.10', ...call, body: { keypair } });

  it('a public key is kept under its name, with the fingerprint that ssh-keygen -E md5 shows', async () => {
    const { status, body } = await make({ name: 'mine', public_key: `${ED25519}\n`, type: 'ssh' });
    assert.equal(status, 201, JSON.stringify(body));
    assert.equal(body.keypair.public_key, ED25519);
    assert.match(body.keypair.fingerprint, /^([0-9a-f]{2}:){15}[0-9a-f]{2}$/);
    assert.equal('private_key' in body.keypair, false);
    const shown = await lab.call('GET', '/os-keypairs/mine', { version: '2.10' });
    assert.equal(shown.body.keypair.public_key, ED25519);
    assert.equal(shown.body.keypair.user_id, body.keypair.user_id);
    const { keypairs } = (await lab.call('GET', '/os-keypairs')).body;
    assert.deepEqual(
      keypairs.map(({ keypair }: { keypair: { name: string } }) => keypair.name),
      ['mine'],
    );
    const again = await make({ name: 'mine', public_key: ED25519 });
    assert.deepEqual([again.status, again.body.conflictingRequest.message], [409, "Key pair 'mine' already exists."]);
  });

  it('without one a pair is made, whose private half fits and is stored nowhere; from 2.92 on that is refused', async () => {
    const { body } = await make({ name: 'made' });
    const { private_key: pem, public_key: line } = body.keypair;
    const mine = createPublicKey(createPrivateKey(pem)).export({ type: 'spki', format: 'pem' });
    assert.equal(sshpk.parseKey(line, 'ssh').toString('pkcs8').trim(), String(mine).trim());
    const rows = await lab.db.selectFrom('keypairs').selectAll().where('name', '=', 'made').execute();
    assert.doesNotMatch(JSON.stringify(rows), /PRIVATE/);
    assert.equal((await make({ name: 'later' }, { version: '2.92' })).status, 400);
    assert.equal((await make({ name: 'a@b.c', public_key: ED25519 }, { version: '2.92' })).status, 201);
  });

  it('what is no key, no name or another kind is refused', async () => {
    const nothing = ['ssh-rsa JUNK nova@ubuntu', ' ', `ssh-rsa ${'A'.repeat(2048)} x`, `${ED25519}\n${ED25519}`, 'x'];
    for (const public_key of nothing) assert.equal((await make({ name: 'bad', public_key })).status, 400, public_key);
    for (const name of ['', 'key_/.\\@:', 'k'.repeat(256), 'a\0b']) {
      assert.equal((await make({ name, public_key: ED25519 })).status, 400, name);
    }
    assert.equal((await make({ name: 'windows', type: 'x509' })).status, 400);
    assert.equal((await make({ name: 'old', type: 'ssh' }, { version: '2.1' })).status, 400);
    assert.equal((await lab.call('GET', '/os-keypairs/bad')).status, 404);
    assert.equal((await lab.call('DELETE', '/os-keypairs/a%00b')).status, 400);
  });

  it('they are their user’s own: another neither sees nor deletes them, an admin does by naming the user', async () => {
    const { body } = await make({ name: 'private', public_key: ED25519 });
    const userId: UserId = body.keypair.user_id;
    for (const method of ['GET', 'DELETE'] as const) {
      assert.equal((await lab.call(method, '/os-keypairs/private', { as: 'stranger' })).status, 404);
      const named = `/os-keypairs/private?user_id=${userId}`;
      assert.equal((await lab.call(method, named, { as: 'stranger', version: '2.10' })).status, 403);
    }
    assert.equal((await make({ name: 'planted', user_id: userId }, { as: 'stranger' })).status, 403);
    assert.equal((await make({ name: 'given', public_key: ED25519, user_id: userId }, { as: 'admin' })).status, 201);
    const listed = await lab.call('GET', `/os-keypairs?user_id=${userId}&limit=1&marker=given`, {
      as: 'admin',
      version: '2.35',
    });
    assert.equal(listed.body.keypairs.length, 1);
    assert.ok(listed.body.keypairs_links);
    const gone = await lab.call('DELETE', `/os-keypairs/private?user_id=${userId}`, { as: 'admin', version: '2.10' });
    assert.equal(gone.status, 204);
  });

  it('a server is given the key of who asks for it, by its config drive, and keeps it when the pair is gone', async () => {
    await make({ name: 'login', public_key: ED25519 });
    const { body } = await lab.call('POST', '/flavors', {
      as: 'admin',
      body: { flavor: { name: 'small', vcpus: 1, ram: 64, disk: 1 } },
    });
    const imageRef = await addImage(lab.db, lab.projects.one);
    const server = { name: 'web', imageRef, flavorRef: body.flavor.id, networks: 'none', key_name: 'login' };
    const post = (as: 'member' | 'stranger') => lab.call('POST', '/servers', { version: '2.67', as, body: { server } });
    assert.equal((await post('stranger')).status, 400);
    const made = await post('member');
    assert.equal(made.status, 202, JSON.stringify(made.body));
    const request = lab.operations.requests.at(-1);
    assert.deepEqual(request?.key, { name: 'login', publicKey: ED25519 });
    assert.equal(request?.configDrive, true);
    assert.equal((await lab.call('DELETE', '/os-keypairs/login')).status, 202);
    const shown = await lab.call('GET', `/servers/${made.body.server.id}`);
    assert.equal(shown.body.server.key_name, 'login');
  });

  it('cloud-init finds it in meta_data.json', () => {
    const facts = {
      serverId: 's',
      projectId: 'p',
      name: 'n',
      hostname: 'n',
      metadata: {},
      launchIndex: 0,
      userData: null,
    };
    const [file] = configDriveFiles({ ...facts, key: { name: 'login', line: ED25519 } });
    const { public_keys, keys } = JSON.parse(Buffer.from(file?.base64 ?? '', 'base64').toString());
    assert.deepEqual(public_keys, { login: ED25519 });
    assert.deepEqual(keys, [{ name: 'login', type: 'ssh', data: ED25519 }]);
    const [without] = configDriveFiles({ ...facts, key: null });
    assert.doesNotMatch(Buffer.from(without?.base64 ?? '', 'base64').toString(), /keys/);
  });
});
