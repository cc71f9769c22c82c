import assert from 'node:assert/strict';
import { Duplex, PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { NightlatchError } from '#core/errors.ts';
import { newId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import type { DiskKeys, HostAgent, ServerSpec } from '#host/host-agent.ts';
import { CuttableProxy } from '#test/support/cuttable-proxy.ts';
import { someDisk } from '#test/support/disk-lab.ts';
import { RemoteLab } from '#test/support/remote-lab.ts';
import { image, scriptedAgent } from '#test/support/scripted-agent.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * A connection that is cut in the middle of a verb: the control plane is told so, and may repeat; the host finishes what
 * it was at before it listens to anybody again.
 */

let lab: RemoteLab;
before(async () => {
  lab = await RemoteLab.open();
});
after(() => lab[Symbol.asyncDispose]());

const unavailable = (error: unknown) => {
  assert.ok(error instanceof NightlatchError, String(error));
  assert.deepEqual([error.code, error.retry], ['host-unavailable', 'later']);
  return true;
};
const usable = (key: Secret | undefined) => {
  try {
    return key?.use((bytes) => bytes.some((byte) => byte !== 0)) ?? false;
  } catch {
    return false;
  }
};

const disk = someDisk();
const memory = someDisk({ role: 'memory' });
const server = { id: disk.ownerId, name: 'instance-00000001', disks: [disk] } as unknown as ServerSpec;

/** Each phase of a server's life in which a key is on its way or in use. */
const phases: Readonly<Record<string, (agent: HostAgent, key: Secret) => Promise<void>>> = {
  create: (agent, key) => agent.createDisk(disk, { kind: 'blank' }, new Map([[disk.id, key]])),
  start: (agent, key) => agent.startServer(server, new Map([[disk.id, key]])),
  save: (agent, key) => agent.suspendServer(server.id, memory, key),
};

describe('a connection that is cut', () => {
  for (const [phase, call] of Object.entries(phases)) {
    it(`while a host is to ${phase}: it fails for now, and is repeated only when the host has finished`, async () => {
      let release = Promise.withResolvers<void>();
      const held: Secret[] = [];
      const done: string[] = [];
      const work = async (key: Secret | undefined) => {
        if (key) held.push(key);
        done.push('begun');
        await release.promise;
        done.push(usable(key) ? 'ended' : 'robbed of its key');
      };
      const first = (keys: DiskKeys) => [...keys.values()][0];
      const agent = scriptedAgent({
        createDisk: (_disk, _content, keys) => work(first(keys)),
        startServer: (_server, keys) => work(first(keys)),
        suspendServer: (_id, _memory, key) => work(key ?? undefined),
        async lockStrays() {
          done.push('strays locked');
        },
      });
      await lab.serve(agent);
      await using proxy = await CuttableProxy.to(lab.port);
      await using control = lab.connect({ port: proxy.port });
      using key = Secret.generate();

      const asked = call(control.agent, key);
      await waitUntil('the host is at it', async () => done.length === 2);
      proxy.cut();
      await assert.rejects(asked, unavailable);
      proxy.mend();
      await sleep(1500);
      assert.deepEqual([control.isUp, done], [false, ['strays locked', 'begun']]);
      assert.ok(usable(held[0]), 'the key was taken from a verb that still runs');

      release.resolve();
      assert.ok(await control.whenUp(10_000));
      assert.deepEqual(done, ['strays locked', 'begun', 'ended', 'strays locked']);
      assert.ok(!usable(held[0]), 'the key was kept');
      release = Promise.withResolvers<void>();
      release.resolve();
      await call(control.agent, key);
      assert.deepEqual(done.slice(4), ['begun', 'ended']);
    });
  }

  it('while an image is on its way leaves no part of it that looks whole', async () => {
    let arrived: Buffer | null = null;
    let failure: unknown = null;
    let begun = false;
    const agent = scriptedAgent({
      async cacheImage(_id, { open }) {
        const bytes = await open();
        bytes.once('data', () => {
          begun = true;
        });
        try {
          arrived = await buffer(bytes);
        } catch (error) {
          failure = error;
          throw error;
        }
      },
    });
    await lab.serve(agent);
    await using proxy = await CuttableProxy.to(lab.port);
    await using control = lab.connect({ port: proxy.port });
    const slow = async function* () {
      for (let i = 0; i < 1000; i++) {
        yield Buffer.alloc(1000);
        await sleep(10);
      }
    };
    const asked = control.agent.cacheImage(
      newId(),
      image(async () => Readable.from(slow(), { objectMode: false })),
    );
    await waitUntil('some of it is there', async () => begun);
    proxy.cut();
    await assert.rejects(asked, unavailable);
    await waitUntil('the host has given up', async () => failure !== null);
    assert.equal(arrived, null);
  });

  it('closes consoles at both ends', async () => {
    const both = Duplex.from({ readable: new PassThrough(), writable: new PassThrough() });
    await lab.serve(scriptedAgent({ openConsole: async () => both }));
    await using proxy = await CuttableProxy.to(lab.port);
    await using control = lab.connect({ port: proxy.port });
    const console = await control.agent.openConsole(newId());
    console.on('error', () => {});
    proxy.cut();
    await waitUntil('both ends are closed', async () => console.destroyed && both.destroyed);
  });

  it('makes a call wait a moment for the host, which may just be restarting', async () => {
    const agent = scriptedAgent({ inventory: async () => ({ servers: [] }) as never });
    const first = await lab.serve(agent);
    await using control = lab.connect();
    assert.ok(await control.whenUp(5000));
    const { port } = first;
    await first[Symbol.asyncDispose]();
    await waitUntil('the loss is noticed', async () => !control.isUp);
    const asked = control.agent.inventory();
    await lab.serve(agent, port);
    assert.deepEqual(await asked, { servers: [] });
  });
});
