import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { CloudClient } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { markerScript, markersFor } from '#cli/guest-image/guest-script.ts';
import { run } from '#host/exec.ts';
import { CLOUD_NAME, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { testGuestImage, waitForBoots } from '#test/support/guest-image.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { wayOf } from '#test/support/server-way.ts';
import { TestService } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';

/** Debian's `openstack` command against the whole service with real guests, told as a user would type it. */

type Row = Readonly<Record<string, unknown>>;
const column = (rows: unknown, name: string): unknown[] => (rows as Row[]).map((row) => row[name]);

const ENCRYPTED = ['--property', 'hw:ephemeral_encryption=true'];
const LUKS = ['--property', 'hw:ephemeral_encryption_format=luks'];
const BOOT = ['--image', 'guest', '--nic', 'none'];

let service: TestService;
let cloud: CloudClient;
let admin: OpenStackClient;
let userData: string;

before(async () => {
  const image = await testGuestImage();
  service = await TestService.start({ imagesType: 'raw', shutdownTimeout: 15 });
  cloud = await service.client();
  admin = openStackClient(service.stateDirectory, CLOUD_NAME);
  userData = join(service.directory, 'user-data');
  await writeFile(userData, markerScript({ markers: markersFor('nl-client-4711') }));
  const upload = ['--disk-format', 'raw', '--container-format', 'bare', '--file', image.path];
  await admin.does('image', 'create', 'guest', ...upload, '--property', 'os_distro=debian');
});
after(() => service[Symbol.asyncDispose]());

describe('openstack: identity, images, flavors', { timeout: 300_000 }, () => {
  it('token issue; catalog list', async () => {
    const token = (await admin.json('token', 'issue')) as Row;
    assert.equal(token.id, String(token.id).trim());
    const types = column(await admin.json('catalog', 'list'), 'Type').sort();
    assert.deepEqual(types, ['block-storage', 'compute', 'identity', 'image', 'volumev3']);
  });

  it('project and user create, list, show, delete; role add; a project of one’s own', async () => {
    await admin.does('project', 'create', 'lighthouse', '--description', 'by the sea');
    await admin.does('user', 'create', 'keeper', '--password', 'a lamp at night', '--project', 'lighthouse');
    await admin.does('role', 'add', '--user', 'keeper', '--project', 'lighthouse', 'member');
    assert.ok(column(await admin.json('project', 'list'), 'Name').includes('lighthouse'));
    assert.equal(((await admin.json('project', 'show', 'lighthouse')) as Row).description, 'by the sea');
    assert.ok(column(await admin.json('user', 'list'), 'Name').includes('keeper'));
    const login = { userName: 'keeper', password: 'a lamp at night', projectName: 'lighthouse', domainId: 'default' };
    await writeCloudsYaml(join(service.directory, 'clouds.yaml'), { ...login, authUrl: `${service.url}/identity/v3` });
    const keeper = openStackClient(service.directory, CLOUD_NAME);
    assert.deepEqual(await keeper.json('image', 'list'), []);
    assert.match(await keeper.fails('flavor', 'create', 'mine'), /403: .*Policy doesn't allow .* to be performed/);
    await admin.does('user', 'delete', 'keeper');
    await admin.does('project', 'delete', 'lighthouse');
    assert.match(await keeper.fails('token', 'issue'), /requires authentication\. \(HTTP 401\)/);
  });

  it('image list, show, set, delete', async () => {
    const file = join(service.directory, 'small.raw');
    await writeFile(file, Buffer.alloc(4096, 1));
    await admin.does('image', 'create', 'small', '--disk-format', 'raw', '--file', file);
    assert.deepEqual(column(await admin.json('image', 'list'), 'Name').sort(), ['guest', 'small']);
    await admin.does('image', 'set', 'small', '--name', 'tiny', '--min-disk', '2', '--property', 'os_distro=none');
    const image = (await admin.json('image', 'show', 'tiny')) as Row;
    assert.deepEqual([image.status, image.size, image.min_disk], ['active', 4096, 2]);
    assert.equal((image.properties as Row).os_distro, 'none');
  });

  it('flavor create, list, show, set, unset, delete', async () => {
    const sizes = ['--ram', '128', '--vcpus', '1', '--disk', '1'];
    const disks = ['--ephemeral', '1', '--swap', '16'];
    const made = (await admin.json('flavor', 'create', 'm1.secret', ...sizes, ...disks, ...ENCRYPTED)) as Row;
    assert.deepEqual([made.disk, made['OS-FLV-EXT-DATA:ephemeral'], made.swap], [1, 1, 16]);
    await admin.does('flavor', 'create', 'm1.plain', ...sizes);
    await admin.does('flavor', 'set', 'm1.secret', ...LUKS, '--property', 'a=b');
    await admin.does('flavor', 'unset', 'm1.secret', '--property', 'a');
    const flavor = (await admin.json('flavor', 'show', 'm1.secret')) as Row;
    assert.deepEqual(flavor.properties, {
      'hw:ephemeral_encryption': 'true',
      'hw:ephemeral_encryption_format': 'luks',
    });
    assert.deepEqual(column(await admin.json('flavor', 'list'), 'Name').sort(), ['m1.plain', 'm1.secret']);
    await admin.does('flavor', 'delete', 'm1.plain');
    assert.match(await admin.fails('flavor', 'show', 'm1.plain'), /No Flavor found for m1\.plain/);
  });
});

describe('openstack: the life of an encrypted server', { timeout: 600_000 }, () => {
  let id: string;
  let boot: string;

  /** Asks the guest on its serial console, at the address that `console url show` gives. */
  const ask = async (question: string, answer: RegExp): Promise<RegExpExecArray> => {
    const { url } = (await admin.json('console', 'url', 'show', '--serial', 'web')) as Row;
    using guest = await GuestConsole.open(String(url));
    return await guest.ask(question, answer);
  };
  const way = (end: string, ...args: string[]) => wayOf(cloud, 'web', end, () => admin.does('server', ...args));
  const statusShown = async () => ((await admin.json('server', 'show', 'web')) as Row).status;

  it('server create --wait, list, show', async () => {
    const options = ['--user-data', userData, '--config-drive', 'true', '--property', 'role=web server', '--wait'];
    const seen = await way('ACTIVE', 'create', 'web', ...BOOT, '--flavor', 'm1.secret', ...options);
    // Choosing the host takes milliseconds: a client may miss it.
    assert.deepEqual(
      seen.filter((step) => step !== 'BUILD scheduling'),
      ['gone', 'BUILD spawning', 'ACTIVE'],
    );
    const shown = (await admin.json('server', 'show', 'web')) as Row;
    id = String(shown.id);
    assert.deepEqual(shown.properties, { role: 'web server' });
    assert.deepEqual([shown.status, shown['OS-EXT-STS:power_state'], shown.config_drive], ['ACTIVE', 1, 'True']);
    assert.equal(shown['OS-EXT-SRV-ATTR:host'], 'testhost');
    assert.match(String(shown.image), /^guest \(/);
    const listed = (await admin.json('server', 'list', '--status', 'ACTIVE')) as Row[];
    assert.deepEqual(listed, [
      { ID: id, Name: 'web', Status: 'ACTIVE', Networks: {}, Image: 'guest', Flavor: 'm1.secret' },
    ]);
  });

  it('console log show; console url show --serial: the user data has run, every disk is there', async () => {
    await waitForBoots(cloud, id, 1);
    const log = await admin.text('console', 'log', 'show', '--lines', '20', 'web');
    for (const place of ['root', 'ephemeral', 'swap', 'memory']) {
      assert.match(log, new RegExp(`^NIGHTLATCH ${place} written\r?$`, 'm'));
    }
    boot = (await ask('NL memory', /^NIGHTLATCH memory kept (\S+)$/))[1] ?? '';
    await ask('NL markers', /root=found ephemeral=found swap=found memory=found/);
  });

  it('start of a server that runs is refused, and says why', async () => {
    const said = await admin.fails('server', 'start', 'web');
    assert.match(said, new RegExp(`Cannot 'start' instance ${id} while it is in vm_state active \\(HTTP 409\\)`));
  });

  it('pause, unpause: the same boot', async () => {
    assert.deepEqual(await way('PAUSED', 'pause', 'web'), ['ACTIVE', 'ACTIVE pausing', 'PAUSED']);
    assert.match(await admin.fails('console', 'url', 'show', '--serial', 'web'), /409: .* is not ready/);
    assert.deepEqual(await way('ACTIVE', 'unpause', 'web'), ['PAUSED', 'PAUSED unpausing', 'ACTIVE']);
    await ask('NL memory', new RegExp(`memory kept ${boot}`));
  });

  it('suspend, resume: the same boot', async () => {
    assert.deepEqual(await way('SUSPENDED', 'suspend', 'web'), ['ACTIVE', 'ACTIVE suspending', 'SUSPENDED']);
    assert.match(await admin.fails('server', 'suspend', 'web'), /'suspend' .* vm_state suspended/);
    assert.deepEqual(await way('ACTIVE', 'resume', 'web'), ['SUSPENDED', 'SUSPENDED resuming', 'ACTIVE']);
    await ask('NL memory', new RegExp(`memory kept ${boot}`));
  });

  it('reboot --soft --wait, --hard --wait: new boots', async () => {
    const soft = await way('ACTIVE', 'reboot', '--soft', '--wait', 'web');
    assert.deepEqual(soft, ['ACTIVE', 'REBOOT rebooting', 'ACTIVE']);
    await waitForBoots(cloud, id, 2);
    const hard = await way('ACTIVE', 'reboot', '--hard', '--wait', 'web');
    assert.deepEqual(hard, ['ACTIVE', 'HARD_REBOOT rebooting_hard', 'ACTIVE']);
    await waitForBoots(cloud, id, 3);
    const again = (await ask('NL memory', /^NIGHTLATCH memory kept (\S+)$/))[1];
    assert.notEqual(again, boot);
    const shutdowns = (await cloud.consoleLog(id)).split('reboot: Power down').length - 1;
    assert.equal(shutdowns, 1, 'the soft reboot lets the guest shut down, the hard one does not');
  });

  it('stop, start: the disks keep what was written', async () => {
    assert.deepEqual(await way('SHUTOFF', 'stop', 'web'), ['ACTIVE', 'ACTIVE powering-off', 'SHUTOFF']);
    assert.equal(await statusShown(), 'SHUTOFF');
    assert.match(await admin.fails('server', 'stop', 'web'), /'stop' .* vm_state stopped/);
    assert.deepEqual(await way('ACTIVE', 'start', 'web'), ['SHUTOFF', 'SHUTOFF powering-on', 'ACTIVE']);
    await waitForBoots(cloud, id, 4);
    await ask('NL markers', /root=found ephemeral=found swap=found/);
  });

  it('delete --wait: nothing is left', async () => {
    assert.deepEqual(await way('gone', 'delete', '--wait', 'web'), ['ACTIVE', 'ACTIVE deleting', 'gone']);
    assert.deepEqual(await admin.json('server', 'list'), []);
    assert.match(await admin.fails('server', 'show', id), /No server with a name or ID/);
    assert.deepEqual(await findStrays(service), []);
  });
});

describe('openstack: what cannot be', { timeout: 300_000 }, () => {
  it('server create with an unknown flavor or image, delete of an unknown server', async () => {
    const withFlavor = ['--image', 'guest', '--nic', 'none', '--flavor', 'huge'];
    assert.match(await admin.fails('server', 'create', 'x', ...withFlavor), /No flavor with a name or ID of 'huge'/);
    const withImage = ['--image', 'windows', '--nic', 'none', '--flavor', 'm1.secret'];
    assert.match(await admin.fails('server', 'create', 'x', ...withImage), /No Image found for windows/);
    assert.match(await admin.fails('server', 'delete', 'nobody'), /No server with a name or ID of 'nobody'/);
  });

  it('server create from an image that is larger than the flavor’s disk', async () => {
    const tooSmall = await admin.fails(
      'server',
      'create',
      'x',
      '--image',
      'tiny',
      '--nic',
      'none',
      '--flavor',
      'm1.secret',
    );
    assert.match(tooSmall, /Flavor's disk is smaller than the minimum size .*\(HTTP 400\)/);
    const large = join(service.directory, 'large.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', large, '2G'], { doing: 'Making a large image' });
    await admin.does('image', 'create', 'large', '--disk-format', 'qcow2', '--file', large);
    const said = await admin.fails(
      'server',
      'create',
      'x',
      '--image',
      'large',
      '--nic',
      'none',
      '--flavor',
      'm1.secret',
    );
    assert.match(said, /Flavor's disk is too small for requested image.*\(HTTP 400\)/);
    await admin.does('image', 'delete', 'large', 'tiny');
    assert.deepEqual(column(await admin.json('image', 'list'), 'Name'), ['guest']);
  });

  it('server create when flavor and image contradict each other', async () => {
    await admin.does('image', 'set', 'guest', '--property', 'hw_ephemeral_encryption=false');
    const said = await admin.fails('server', 'create', 'x', ...BOOT, '--flavor', 'm1.secret');
    assert.match(said, /m1\.secret has hw:ephemeral_encryption=true but image guest has hw_ephemeral_encryption=false/);
    assert.match(said, /HTTP 400/);
    await admin.does('image', 'unset', 'guest', '--property', 'hw_ephemeral_encryption');
    assert.deepEqual(await admin.json('server', 'list'), []);
  });

  it('server create in a format that no host can: ERROR, with a fault a user understands; delete --wait', async () => {
    const format = ['--property', 'hw:ephemeral_encryption_format=luksv2'];
    await admin.does('flavor', 'create', 'm1.v2', '--ram', '64', '--disk', '1', ...ENCRYPTED, ...format);
    // The client ends with 0 all the same.
    const said = await admin.text('server', 'create', 'v2', ...BOOT, '--flavor', 'm1.v2', '--wait');
    assert.match(said, /Error creating server/);
    const shown = (await admin.json('server', 'show', 'v2')) as Row;
    assert.equal(shown.status, 'ERROR');
    const { message, code } = shown.fault as Row;
    assert.match(
      String(message),
      /^No valid host was found\. .*testhost lacks the trait COMPUTE_EPHEMERAL_ENCRYPTION_LUKSV2/,
    );
    assert.equal(code, 500);
    await admin.does('server', 'delete', '--wait', 'v2');
    assert.deepEqual(await findStrays(service), []);
  });
});
