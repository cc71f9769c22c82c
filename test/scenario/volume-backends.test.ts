import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { smallTmpfs } from '#test/support/disk-lab.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/** Two folders of one name, a small one and a large one, and images of another: which of them a volume goes to. */
describe('several volume backends on one host', { timeout: 300_000 }, () => {
  let lab: VolumesAndServers;
  let small: { path: string } & AsyncDisposable;
  before(async () => {
    small = await smallTmpfs('size=3g');
    const more = [
      `[volume_backends.small]\nvolume_backend_name = "files"\ndirectory = "${small.path}"`,
      '[volume_backends.large]\nvolume_backend_name = "files"',
      '[volume_backends.layered]\nvolume_driver = "qcow2"',
    ].join('\n');
    lab = await VolumesAndServers.open({ imagesType: 'raw', more });
    await lab.addEncryptedType('files', { volume_backend_name: 'files' });
    await lab.addEncryptedType('layered', { volume_backend_name: 'layered' });
    await lab.addEncryptedType('nowhere', { volume_backend_name: 'tape' });
    // Until it is full the large one has more room, and would be taken.
    await lab.servers.db
      .updateTable('hosts')
      .set({ volume_backends: await withRoomFor(6) })
      .execute();
  });
  after(async () => {
    await lab[Symbol.asyncDispose]();
    await small[Symbol.asyncDispose]();
  });

  /** What the host said of its backends, the large one made to have so many GiB. */
  const withRoomFor = async (capacityGib: number): Promise<string> => {
    const { volume_backends: backends } = await lab.servers.db
      .selectFrom('hosts')
      .select('volume_backends')
      .executeTakeFirstOrThrow();
    return JSON.stringify(backends.map((each) => (each.name === 'large' ? { ...each, capacityGib } : each)));
  };
  const backendOf = async (volume: string): Promise<string> =>
    (await lab.show('volume', volume))['os-vol-host-attr:host'];

  test('a type chooses by name, and of those that share one the one with most room is taken; a full one is passed over', async () => {
    const volumes: string[] = [];
    const add = async (volume_type: string, size = 1) => {
      const volume = await lab.addVolume({ name: `of ${volume_type}`, volume_type, size });
      volumes.push(volume);
      return await backendOf(volume);
    };
    assert.equal(await add('layered'), 'testhost@layered#layered');
    assert.equal(await add('files', 5), 'testhost@large#files');
    assert.equal(await add('files', 2), 'testhost@small#files');
    const last = [await add('files'), await add('files')];
    assert.deepEqual(last.toSorted(), ['testhost@large#files', 'testhost@small#files'], 'each had room for one more');
    const secrets = await lab.countSecrets();
    const { volume } = await lab.must('POST', '/volumes', { volume: { size: 1, volume_type: 'files' } });
    await assert.rejects(lab.reach('volume', volume.id, 'available'), /is error/);
    const { messages } = await lab.must('GET', '/messages');
    assert.match(messages[0].user_message, /testhost@large has 0 GiB free of the 1 asked for/);
    assert.equal(await lab.countSecrets(), secrets, 'what found no place leaves no secret');
    await lab.delete('volume', volume.id);
    for (const each of volumes) await lab.delete('volume', each);
    assert.equal(await lab.countSecrets(), 0);
  });

  test('a name that no backend has fails the volume, and says what there is', async () => {
    const { volume } = await lab.must('POST', '/volumes', { volume: { size: 1, volume_type: 'nowhere' } });
    await assert.rejects(lab.reach('volume', volume.id, 'available'), /is error/);
    const { messages } = await lab.must('GET', '/messages');
    assert.match(messages[0].user_message, /testhost@layered has volume_backend_name layered, not tape/);
    await lab.delete('volume', volume.id);
    assert.equal(await lab.countSecrets(), 0);
  });

  test('a retype to a type of another backend moves the data there, with a key of its own', async () => {
    const volume = await lab.addVolume({ name: 'moving', volume_type: 'layered' });
    const before = await lab.secretOf(volume);
    await lab.fill(await lab.fileOf(volume), before as never, 0x5a);
    const body = { 'os-retype': { new_type: 'files', migration_policy: 'on-demand' } };
    await lab.must('POST', `/volumes/${volume}/action`, body);
    await lab.reach('volume', volume, 'available');
    assert.match(await backendOf(volume), /#files$/);
    const secret = await lab.secretOf(volume);
    assert.notEqual(secret, before);
    assert.equal(await lab.countSecrets(), 1);
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});
