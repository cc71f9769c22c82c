import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Duplex, PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type ImageId, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import type { HostEvent } from '#host/host-agent.ts';
import { someDisk } from '#test/support/disk-lab.ts';
import { RemoteLab } from '#test/support/remote-lab.ts';
import { image, scriptedAgent } from '#test/support/scripted-agent.ts';
import { waitUntil } from '#test/support/wait.ts';

/* How calls travel between control plane and host, over an agent whose verbs are scripted. */

let lab: RemoteLab;
before(async () => {
  lab = await RemoteLab.open();
});
after(() => lab[Symbol.asyncDispose]());

const bytesOf = (secret: Secret | undefined) => secret?.use((bytes) => Buffer.from(bytes));

test('arguments arrive as they were: data, keys, sets; the keys are zeroed when the verb has ended', async () => {
  const seen: { disk?: DiskSpec; key?: Buffer; lent?: Secret; set?: ReadonlySet<ImageId> } = {};
  await lab.serve(
    scriptedAgent({
      async createDisk(disk, content, keys) {
        seen.disk = disk;
        const lent = keys.get(disk.id);
        Object.assign(seen, { key: bytesOf(lent), lent });
        assert.deepEqual(content, { kind: 'filesystem', label: '{"$":1}' });
      },
      async pruneImages(keep) {
        seen.set = keep;
      },
    }),
  );
  await using remote = lab.connect();
  const disk = someDisk();
  using key = Secret.generate();
  await remote.agent.createDisk(disk, { kind: 'filesystem', label: '{"$":1}' }, new Map([[disk.id, key]]));
  assert.deepEqual(seen.disk, disk);
  assert.deepEqual(seen.key, bytesOf(key));
  assert.throws(() => bytesOf(seen.lent), /after it was zeroed/);
  const ids = new Set([newId<ImageId>(), newId<ImageId>()]);
  await remote.agent.pruneImages(ids);
  assert.deepEqual(seen.set, ids);
});

test('results come back as they were; errors of the catalogue with their details, bugs as bugs', async () => {
  const facts = { servers: [], unlockedDisks: ['a'], libvirtSecrets: [], serversWithDisks: [newId<ServerId>()] };
  await lab.serve(
    scriptedAgent({
      inventory: async () => facts,
      consoleLog: async (_, bytes) => Buffer.alloc(bytes, 'x'),
      async pauseServer() {
        throw new NightlatchError('disk-wrong-key', { disk: 'd1' });
      },
    }),
  );
  await using remote = lab.connect();
  assert.deepEqual(await remote.agent.inventory(), facts);
  assert.equal((await remote.agent.consoleLog(newId(), 3_000_000)).length, 3_000_000);
  await assert.rejects(remote.agent.pauseServer(newId(), []), (error) => {
    assert.ok(error instanceof NightlatchError);
    assert.deepEqual([error.code, error.details], ['disk-wrong-key', { disk: 'd1' }]);
    return true;
  });
  await assert.rejects(remote.agent.unpauseServer(newId()), /host far failed: unpauseServer is not scripted/);
  assert.equal(lab.log.filter((line) => line.includes('unpauseServer is not scripted')).length, 1);
});

test('an image is opened only when the host wants it, and arrives whole or not at all', async () => {
  const big = Buffer.alloc(20_000_001, 'image');
  let arrived = Buffer.alloc(0);
  await lab.serve(
    scriptedAgent({
      async cacheImage(_, { format, open }) {
        if (format === 'qcow2') return;
        arrived = await buffer(await open());
      },
    }),
  );
  await using remote = lab.connect();
  let opened = 0;
  const source = async () => {
    opened++;
    return Readable.from([big], { objectMode: false });
  };
  await remote.agent.cacheImage(newId(), image(source, 'qcow2'));
  assert.equal(opened, 0);
  await remote.agent.cacheImage(newId(), image(source));
  assert.equal(opened, 1);
  assert.ok(arrived.equals(big));
  const broken = async () =>
    Readable.from(
      (async function* () {
        yield big.subarray(0, 100_000);
        throw new NightlatchError('not-found', { kind: 'Image', id: 'x' });
      })(),
    );
  arrived = Buffer.alloc(0);
  await assert.rejects(remote.agent.cacheImage(newId(), image(broken)), /Image x could not be found/);
  await assert.rejects(
    remote.agent.cacheImage(
      newId(),
      image(() => Promise.reject(new NightlatchError('not-found', { id: 'y' }))),
    ),
    /y could not be found/,
  );
  assert.equal(arrived.length, 0, 'a part of an image was taken for the whole');
});

test('a host that fails while an image arrives says why', async () => {
  await lab.serve(
    scriptedAgent({
      async cacheImage(_id, { open }) {
        await once(await open(), 'data');
        throw new NightlatchError('disk-full', { doing: 'Copying', where: '/x' });
      },
    }),
  );
  await using remote = lab.connect();
  const endless = async () =>
    new Readable({
      read() {
        this.push(Buffer.alloc(65536));
      },
    });
  await assert.rejects(remote.agent.cacheImage(newId(), image(endless)), /no space left on \/x/);
});

test('the bytes that a disk is made from arrive, with the keys of both; a change of keys arrives by its names', async () => {
  const bytes = Buffer.alloc(3_000_001, 'medium');
  const seen: { bytes?: Buffer; keys?: (Buffer | undefined)[]; change?: (Buffer | undefined)[]; lent?: Secret } = {};
  const [disk, source] = [someDisk(), someDisk()];
  await lab.serve(
    scriptedAgent({
      async createDisk(to, content, keys) {
        assert.ok(content.kind === 'medium' && content.sizeBytes === 512 && content.format === 'raw');
        seen.bytes = await buffer(await content.open());
        seen.keys = [to.id, content.keyId].map((id) => bytesOf(keys.get(id)));
      },
      async rekeyDisk(_disk, { from, to }) {
        seen.change = [bytesOf(from), bytesOf(to)];
        seen.lent = to;
      },
    }),
  );
  await using remote = lab.connect();
  const [one, other] = [Secret.generate(), Secret.generate()];
  const open = async () => Readable.from([bytes], { objectMode: false });
  const content = { kind: 'medium', keyId: source.id, sizeBytes: 512, format: 'raw', open } as const;
  const keys = new Map([
    [source.id, one],
    [disk.id, other],
  ]);
  await remote.agent.createDisk(disk, content, keys);
  assert.ok(seen.bytes?.equals(bytes));
  assert.deepEqual(seen.keys, [bytesOf(other), bytesOf(one)]);
  await remote.agent.rekeyDisk(disk, { from: one, to: other }, newId());
  assert.deepEqual(seen.change, [bytesOf(one), bytesOf(other)]);
  assert.throws(() => bytesOf(seen.lent), /after it was zeroed/);
});

test('a disk’s bytes come back whole, or their reader is told', async () => {
  const bytes = Buffer.alloc(3_000_000, 'medium');
  let isBroken = false;
  await lab.serve(
    scriptedAgent({
      openMedium: async () =>
        Readable.from(
          (async function* () {
            yield bytes;
            if (isBroken) throw new Error('the medium is unreadable');
          })(),
          { objectMode: false },
        ),
    }),
  );
  await using remote = lab.connect();
  assert.ok((await buffer(await remote.agent.openMedium(someDisk()))).equals(bytes));
  isBroken = true;
  await assert.rejects(buffer(await remote.agent.openMedium(someDisk())), (error) => {
    assert.ok(error instanceof NightlatchError);
    return error.code === 'host-unavailable';
  });
});

test('a console is a stream both ways; whoever ends it ends both', async () => {
  const [toGuest, fromGuest] = [new PassThrough(), new PassThrough()];
  const guest = Duplex.from({ writable: toGuest, readable: fromGuest });
  await lab.serve(scriptedAgent({ openConsole: async () => guest }));
  await using remote = lab.connect();
  const console = await remote.agent.openConsole(newId());
  console.write('hello');
  assert.equal(String((await once(toGuest, 'data'))[0]), 'hello');
  fromGuest.write('world');
  assert.equal(String((await once(console, 'data'))[0]), 'world');
  console.destroy();
  await waitUntil('the guest’s end is closed', async () => guest.destroyed);
});

test('events come, and each new connection is told to look again', async () => {
  const agent = scriptedAgent({});
  const server = await lab.serve(agent);
  await using remote = lab.connect();
  const events: HostEvent[] = [];
  remote.agent.onEvent((event) => void events.push(event));
  await waitUntil('the connection is followed', async () => agent.listeners.size === 1 && events.length === 1);
  const serverId = newId<ServerId>();
  for (const listener of agent.listeners) listener({ kind: 'server-ended', serverId });
  await waitUntil('the event came', async () => events.length === 2);
  assert.deepEqual(events, [{ kind: 'look-again' }, { kind: 'server-ended', serverId }]);
  const { port } = server;
  await server[Symbol.asyncDispose]();
  await waitUntil('the loss is noticed', async () => !remote.isUp);
  assert.equal(agent.listeners.size, 0);
  await lab.serve(agent, port);
  await waitUntil('it is told to look again', async () => events.length === 3);
  assert.deepEqual(events[2], { kind: 'look-again' });
});
