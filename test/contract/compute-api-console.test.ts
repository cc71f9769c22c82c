import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { WebSocket } from 'ws';
import { addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

let lab: ComputeLab;
let id: string;
let host: string;

before(async () => {
  lab = await openComputeLab();
  await lab.app.listen({ host: '127.0.0.1', port: 0 });
  host = `127.0.0.1:${(lab.app.server.address() as AddressInfo).port}`;
  const imageRef = await addImage(lab.db, lab.projects.one);
  const flavor = { name: 'small', ram: 64, vcpus: 1, disk: 1, id: '1' };
  await lab.call('POST', '/flavors', { as: 'admin', body: { flavor } });
  const made = await lab.call('POST', '/servers', { body: { server: { name: 'web', imageRef, flavorRef: '1' } } });
  id = made.body.server.id;
});
after(() => lab[Symbol.asyncDispose]());

const ask = (type = 'serial', protocol = 'serial') =>
  lab.call('POST', `/servers/${id}/remote-consoles`, {
    version: '2.6',
    headers: { host },
    body: { remote_console: { protocol, type } },
  });

/** Why no connection came about. @throws when one did. */
async function refusalOf(url: string): Promise<string> {
  const socket = new WebSocket(url);
  try {
    await once(socket, 'open');
  } catch (error) {
    return String(error);
  }
  socket.terminate();
  throw new Error('the console opened');
}

describe('the serial console', () => {
  it('is offered once the guest runs', async () => {
    const early = await ask();
    assert.deepEqual([early.status, early.body.conflictingRequest.message], [409, `Instance ${id} is not ready`]);
    await lab.operations.run(id);
    const { body } = await ask();
    assert.match(body.remote_console.url, new RegExp(`^ws://${host}/compute/serial/\\?token=[\\w-]{43}$`));
    assert.equal((await ask('novnc', 'vnc')).status, 400);
    assert.equal((await ask('novnc', 'serial')).status, 400);
    assert.equal((await ask('telnet', 'telnet')).status, 400);
  });

  it('carries bytes both ways, and speaks the subprotocol of Nova’s proxy', async () => {
    const socket = new WebSocket((await ask()).body.remote_console.url, ['base64', 'binary']);
    await once(socket, 'open');
    assert.equal(socket.protocol, 'binary');
    const sent = Buffer.from([0, 255, 13, 10, 0xc3]);
    socket.send(sent);
    const [echo, isBinary] = await once(socket, 'message');
    assert.deepEqual([echo, isBinary], [sent, true]);
    socket.close();
    await once(socket, 'close');
  });

  it('opens once for each token, and for no other', async () => {
    const { url } = (await ask()).body.remote_console;
    const first = new WebSocket(url);
    await once(first, 'open');
    first.close();
    assert.match(await refusalOf(url), /401/);
    assert.match(await refusalOf(url.replace(/token=.*/, 'token=guess')), /401/);
    assert.match(await refusalOf(url.replace(/\?.*/, '')), /401/);
  });

  it('is not spent by a request that is no WebSocket', async () => {
    const { url } = (await ask()).body.remote_console;
    assert.equal((await fetch(url.replace(/^ws/, 'http'))).status, 400);
    const socket = new WebSocket(url);
    await once(socket, 'open');
    socket.close();
  });

  it('survives a client that sends too much, or goes away', async () => {
    const flood = new WebSocket((await ask()).body.remote_console.url);
    await once(flood, 'open');
    flood.send(Buffer.alloc(1024 * 1024));
    const [code] = await once(flood, 'close');
    assert.equal(code, 1009);
    const rude = new WebSocket((await ask()).body.remote_console.url);
    await once(rude, 'open');
    rude.terminate();
    await once(rude, 'close');
    assert.equal((await ask()).status, 200);
  });

  it('says why it cannot be opened any more', async () => {
    const { url } = (await ask()).body.remote_console;
    await lab.db.updateTable('servers').set({ vm_state: 'deleted' }).execute();
    const socket = new WebSocket(url);
    const [code, reason] = await once(socket, 'close');
    assert.deepEqual([code, String(reason)], [1011, `Instance ${id} could not be found.`]);
  });
});
