import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { NightlatchError } from '#core/errors.ts';
import { newId } from '#core/ids.ts';
import { Authority, fingerprintOf, readCredentials } from '#host/remote/certificates.ts';
import type { Credentials } from '#host/remote/peer.ts';
import { tell } from '#test/support/disk-lab.ts';
import { RemoteLab } from '#test/support/remote-lab.ts';
import { scriptedAgent } from '#test/support/scripted-agent.ts';
import { waitUntil } from '#test/support/wait.ts';

/** Who may be at the ends of a connection, and what becomes of everybody else. */

let lab: RemoteLab;
let paused = 0;
const agent = scriptedAgent({
  async pauseServer() {
    paused++;
  },
});
before(async () => {
  lab = await RemoteLab.open();
  await lab.serve(agent);
});
after(() => lab[Symbol.asyncDispose]());

/** Another authority's certificates, or another certificate of ours. */
async function credentialsOf(name: string, from?: Authority): Promise<{ host: Credentials; control: Credentials }> {
  const authority = from ?? (await Authority.open(join(lab.folder, `authority-${name}`)));
  const at = join(lab.folder, `files-${newId()}`);
  await authority.enroll(name, at);
  const files = { certificate: join(at, 'host.crt'), key: join(at, 'host.key'), ca: join(at, 'ca.crt') };
  return { host: await readCredentials(files), control: await authority.credentials() };
}
const ours = () => Authority.open(join(lab.folder, 'authority'));

/** Signed by our authority, and over since yesterday. */
async function expired(uri: string, usage: string): Promise<Credentials> {
  const at = (name: string) => join(lab.folder, `expired-${usage}.${name}`);
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-config', '/dev/null'];
  await writeFile(at('ext'), `subjectAltName=URI:${uri}\nextendedKeyUsage=${usage}\n`);
  const request = tell('openssl', 'req', '-new', ...curve, '-subj', '/CN=x', '-keyout', at('key'), '-out', at('csr'));
  assert.equal(request.status, 0, request.text);
  const ca = join(lab.folder, 'authority', 'ca');
  const signer = ['-CA', `${ca}.crt`, '-CAkey', `${ca}.key`, '-set_serial', '7', '-days', '-1'];
  const signed = tell('openssl', 'x509', '-req', '-in', at('csr'), ...signer, '-extfile', at('ext'), '-out', at('crt'));
  assert.equal(signed.status, 0, signed.text);
  return await readCredentials({ certificate: at('crt'), key: at('key'), ca: `${ca}.crt` });
}

/** The host is reached by nobody with these, says why, and is still there for its control plane. */
async function refusesControl(credentials: Credentials, reason: RegExp): Promise<void> {
  await using intruder = lab.connect({ credentials });
  await waitUntil('the intruder gave up', async () => intruder.changes.length > 0);
  assert.match(String(intruder.changes[0]), reason);
  assert.equal(intruder.isUp, false);
  await stillServes();
}

async function stillServes(): Promise<void> {
  await using control = lab.connect();
  const count = paused;
  await control.agent.pauseServer(newId(), []);
  assert.equal(paused, count + 1);
}

/** The control plane does not talk to whoever shows these as host `far`. */
async function refusesHost(credentials: Credentials, fingerprint: string, reason: RegExp): Promise<void> {
  const other = scriptedAgent({});
  await using server = await lab.serveElsewhere(other, credentials);
  await using control = lab.connect({ port: server.port, fingerprint });
  await waitUntil('the control plane gave up', async () => control.changes.length > 0);
  assert.match(String(control.changes[0]), reason);
  assert.equal(other.locked(), 0, 'the false host was taken into use');
}

describe('a host takes no connection', () => {
  it('of a control plane that another authority vouches for', async () => {
    const { control } = await credentialsOf('far');
    await refusesControl({ ...control, ca: lab.control.ca }, /unknown ca|certificate|broke|socket|ECONNRESET/i);
    assert.equal(agent.locked() > 0, true);
  });

  it('of another host', async () => {
    const { host } = await credentialsOf('spy', await ours());
    await refusesControl(host, /unsupported certificate|certificate|broke|socket|ECONNRESET/i);
  });

  it('with a certificate that has expired', async () => {
    await refusesControl(await expired('nightlatch:control-plane', 'clientAuth'), /expired|broke|socket|ECONNRESET/i);
  });

  it('with a certificate of our authority in another name', async () => {
    const { control } = await credentialsOf('far', await ours());
    const { certificate, key } = await signedFor('nightlatch:host:far', 'clientAuth');
    await refusesControl({ ...control, certificate, key }, /broke|socket|ECONNRESET|session|REFUSED/i);
    assert.ok(lab.log.some((line) => line.includes('its certificate is for URI:nightlatch:host:far')));
  });

  it('without a certificate', async () => {
    await assertCut(connectTls(to({ cert: undefined, key: undefined })));
  });

  it('over TLS 1.2', async () => {
    await assertCut(connectTls(to({ minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' })));
  });

  it('that speaks another protocol inside TLS', async () => {
    await assertCut(connectTls(to({ ALPNProtocols: ['http/1.1'] })), 'GET /inventory HTTP/1.1\r\nHost: far\r\n\r\n');
    await assertCut(connectTls(to({ ALPNProtocols: [] })), 'GET /inventory HTTP/1.1\r\nHost: far\r\n\r\n');
  });

  it('in clear, or of noise', async () => {
    await assertCut(connectTcp(lab.port, '127.0.0.1'), 'POST /inventory HTTP/1.1\r\nHost: far\r\n\r\n');
    await assertCut(connectTcp(lab.port, '127.0.0.1'), Buffer.alloc(100_000, 0xa5));
    await assertCut(connectTls(to({})), Buffer.alloc(100_000, 0xa5));
  });
});

describe('a control plane talks to no host', () => {
  it('that another authority vouches for', async () => {
    const { host } = await credentialsOf('far');
    const mixed = { ...host, ca: lab.host.ca };
    await refusesHost(mixed, fingerprintOf(host.certificate), /self.signed|unable to verify|unable to get/i);
  });

  it('with another name', async () => {
    const { host } = await credentialsOf('near', await ours());
    await refusesHost(host, fingerprintOf(host.certificate), /is for URI:nightlatch:host:near, not for/);
  });

  it('with a certificate that has expired', async () => {
    const old = await expired('nightlatch:host:far', 'serverAuth');
    await refusesHost(old, fingerprintOf(old.certificate), /expired/);
  });

  it('with an older certificate of the same name, which a new enrollment has replaced', async () => {
    const { host } = await credentialsOf('far', await ours());
    await refusesHost(host, lab.fingerprint, /not the one it was enrolled with/);
  });

  it('that shows the certificate of the control plane', async () => {
    await refusesHost(lab.control, fingerprintOf(lab.control.certificate), /purpose|is for/i);
  });
});

describe('a call that is not one ends that call and nothing else:', () => {
  let session: ClientHttp2Session;
  before(async () => {
    const socket = connectTls(to({}));
    session = connectHttp2('https://far', { createConnection: () => socket });
    await once(session, 'connect');
  });
  after(() => session.destroy());

  const send = async (path: string, body: Buffer, end = true) => {
    const stream = session.request({ ':method': 'POST', ':path': path }, { endStream: false });
    stream.write(body);
    if (end) stream.end();
    const [headers] = await once(stream, 'response', { signal: AbortSignal.timeout(5000) });
    assert.equal(headers[':status'], 500);
    const answer = JSON.parse(await text(stream));
    assert.equal(answer.code, null);
    return String(answer.message);
  };
  const frame = (kind: number, length: number, content = '') => {
    const header = Buffer.alloc(5);
    header.writeUInt8(kind, 0);
    header.writeUInt32BE(length, 1);
    return Buffer.concat([header, Buffer.from(content)]);
  };
  const call = (json: string) => frame(1, Buffer.byteLength(json), json);

  const cases: Readonly<Record<string, () => Promise<string>>> = {
    'a verb that does not exist': () => send('/constructor', call('[]')),
    'half a header': () => send('/pauseServer', Buffer.from([1, 0])),
    'half a frame': () => send('/pauseServer', frame(1, 100, '["')),
    'a frame of 1 GiB': () => send('/pauseServer', frame(1, 1024 ** 3, '['), false),
    'a frame of an unknown kind': () => send('/pauseServer', frame(9, 2, '[]')),
    'a key before the call': () => send('/startServer', frame(2, 92, 'x'.repeat(92))),
    'a call that is no JSON': () => send('/pauseServer', call('[{]')),
    'a call that is no list': () => send('/pauseServer', call('{}')),
    'a list of what is no argument': () => send('/pauseServer', call('[1,"x",null]')),
    'a key that was not sealed for this call': () =>
      send('/startServer', Buffer.concat([call('[{"key":true}]'), frame(2, 92, 'x'.repeat(92))])),
    'a key that is too short': () => send('/startServer', Buffer.concat([call('[{"key":true}]'), frame(2, 3, 'abc')])),
    'a key that never comes': () => send('/startServer', call('[{"key":true}]')),
  };
  for (const [what, attempt] of Object.entries(cases)) {
    it(what, async () => {
      const count = paused;
      const message = await attempt();
      assert.ok(message.length > 0 && message.length < 300, message);
      assert.equal(paused, count, 'the verb was called');
      assert.match(await send('/unpauseServer', call('[]')), /unpauseServer is not scripted/);
    });
  }
});

describe('one control plane at a time:', () => {
  it('a second one is refused while the first lives, and welcome when it is gone', async () => {
    const first = lab.connect();
    assert.ok(await first.whenUp(5000));
    await using second = lab.connect();
    await waitUntil('the second was told', async () => second.changes.length > 0);
    assert.match(String(second.changes[0]), /another control plane is connected/);
    await assert.rejects(second.agent.pauseServer(newId(), []), (error) => {
      assert.ok(error instanceof NightlatchError);
      assert.deepEqual([error.code, error.retry, error.status], ['host-unavailable', 'later', 503]);
      assert.match(error.message, /^Asking host far to pause server failed: .* Guests there run on\./);
      return true;
    });
    await first.agent.pauseServer(newId(), []);
    await first[Symbol.asyncDispose]();
    assert.ok(await second.whenUp(10_000));
    await second.agent.pauseServer(newId(), []);
  });
});

async function signedFor(uri: string, usage: string): Promise<Pick<Credentials, 'certificate' | 'key'>> {
  const at = (name: string) => join(lab.folder, `odd.${name}`);
  const ca = join(lab.folder, 'authority', 'ca');
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-config',
    '/dev/null',
  ];
  const names = ['-addext', `subjectAltName=URI:${uri}`, '-addext', `extendedKeyUsage=${usage}`];
  const signer = ['-CA', `${ca}.crt`, '-CAkey', `${ca}.key`, '-days', '9', '-subj', '/CN=x'];
  const made = tell('openssl', ...args, ...names, ...signer, '-keyout', at('key'), '-out', at('crt'));
  assert.equal(made.status, 0, made.text);
  return await readCredentials({ certificate: at('crt'), key: at('key'), ca: `${ca}.crt` });
}

/** How the control plane itself would connect, but for what is given. */
function to(other: ConnectionOptions): ConnectionOptions {
  const { certificate: cert, key, ca } = lab.control;
  const own = { port: lab.port, host: '127.0.0.1', cert, key, ca, ALPNProtocols: ['h2'] };
  return { ...own, checkServerIdentity: () => undefined, ...other };
}

/** The connection ends without a single verb having been called, and without an answer to what was said. */
async function assertCut(socket: TLSSocket | ReturnType<typeof connectTcp>, say?: string | Buffer): Promise<void> {
  const count = paused;
  const got: Buffer[] = [];
  socket.on('error', () => {});
  socket.on('data', (chunk) => got.push(chunk));
  if (say !== undefined) socket.write(say);
  await waitUntil('the connection is ended', async () => socket.closed, 15_000);
  assert.ok(!/HTTP\/1.1 2|servers/.test(Buffer.concat(got).toString('latin1')));
  assert.equal(paused, count);
  await stillServes();
}
