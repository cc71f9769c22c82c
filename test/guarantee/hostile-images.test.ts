import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { MIB } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';

/*
 * An image is a file that a stranger made and that programs of the host will open. One that is not what it claims, or
 * that speaks of files of the host, is refused with the reason when its bytes arrive, and nothing of it stays.
 */

let lab: TroubleLab;
let folder: string;
/** A file of the host that no image may bring in. */
let secretFile: string;
const WORD = randomBytes(16).toString('hex');
before(async () => {
  lab = await TroubleLab.open({ imagesType: 'qcow2' });
  folder = await mkdtemp('/var/tmp/nightlatch-test-');
  secretFile = join(folder, 'shadow');
  await writeFile(secretFile, WORD.padEnd(4096, '\n'));
});
after(async () => {
  await lab[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** The bytes of a qcow2 file that qemu-img makes; `change` spoils its header. */
async function qcow2(args: readonly string[] = [], change: (file: Buffer) => void = () => {}): Promise<Buffer> {
  const file = join(await mkdtemp(join(folder, 'x-')), 'image');
  const made = await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...args, file, String(4 * MIB)], {
    doing: 'Making an image',
    cwd: folder,
  });
  assert.equal(made.code, 0);
  const bytes = await readFile(file);
  change(bytes);
  return bytes;
}

/** As `qcow2`, with data in it. */
async function filled(): Promise<Buffer> {
  const file = join(await mkdtemp(join(folder, 'x-')), 'image');
  const source = join(folder, 'source');
  await writeFile(source, randomBytes(2 * MIB));
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', source, file], { doing: 'Making an image' });
  return await readFile(file);
}

/** A small qcow2 file written by hand, whose backing file is a name that qemu-img would refuse to take. */
async function backedBy(name: string): Promise<Buffer> {
  return await qcow2([], (file) => {
    const at = 0x200;
    file.write(name, at);
    file.writeBigUInt64BE(BigInt(at), 8);
    file.writeUInt32BE(Buffer.byteLength(name), 16);
  });
}

const u32 = (at: number, value: number) => (file: Buffer) => void file.writeUInt32BE(value, at);
const u64 = (at: number, value: bigint) => (file: Buffer) => void file.writeBigUInt64BE(value, at);
const text =
  (start: string, size = 4096) =>
  async () =>
    Buffer.concat([Buffer.from(start, 'latin1')], size);

/** Claim, bytes, and the reason they are refused for. */
const refused: Record<string, ['raw' | 'qcow2' | 'iso', () => Promise<Buffer>, RegExp]> = {
  'a qcow2 file over a file of the host': [
    'qcow2',
    async () => await qcow2(['-b', secretFile, '-F', 'raw']),
    /it has a backing file; flatten it/,
  ],
  'a qcow2 file over /etc/shadow': ['qcow2', () => backedBy('/etc/shadow'), /it has a backing file/],
  'a qcow2 file over a block device': ['qcow2', () => backedBy('/dev/sda'), /it has a backing file/],
  'a qcow2 file over the network': ['qcow2', () => backedBy('nbd://127.0.0.1:10809/x'), /it has a backing file/],
  'a qcow2 file over a json: name': [
    'qcow2',
    () => backedBy('json:{"driver":"file","filename":"/etc/shadow"}'),
    /it has a backing file/,
  ],
  'a qcow2 file whose data is in another': [
    'qcow2',
    () => qcow2(['-o', `data_file=${secretFile}.data,data_file_raw=on`]),
    /it has an external data file/,
  ],
  'an encrypted qcow2 file (LUKS)': ['qcow2', () => qcow2([], u32(32, 2)), /it is encrypted; decrypt it/],
  'an encrypted qcow2 file (AES)': ['qcow2', () => qcow2([], u32(32, 1)), /it is encrypted; decrypt it/],
  'an encryption there is not': ['qcow2', () => qcow2([], u32(32, 77)), /it is encrypted/],
  'a qcow2 file that is cut off': ['qcow2', async () => (await filled()).subarray(0, MIB), /truncated or damaged/],
  'a qcow2 file cut off in its header': ['qcow2', async () => (await qcow2()).subarray(0, 90), /no qcow2 header/],
  'a qcow2 file of 2^62 bytes': ['qcow2', () => qcow2([], u64(24, 1n << 62n)), /larger than 16 TiB/],
  'a qcow2 file of 2^64 bytes': ['qcow2', () => qcow2([], u64(24, (1n << 64n) - 1n)), /larger than 16 TiB/],
  'a qcow2 file of 17 TiB': ['qcow2', () => qcow2([], u64(24, 17n << 40n)), /larger than 16 TiB/],
  'a qcow2 file of no bytes': ['qcow2', () => qcow2([], u64(24, 0n)), /its virtual size is 0/],
  'a qcow2 file of version 9': ['qcow2', () => qcow2([], u32(4, 9)), /no qcow2 header of version 2 or 3/],
  'a qcow2 file with clusters of 2^31 bytes': ['qcow2', () => qcow2([], u32(20, 31)), /qemu-img cannot read it/],
  'a qcow2 file with a table beyond its end': ['qcow2', () => qcow2([], u64(40, 1n << 50n)), /refused: .+/],
  'a qcow2 file with a huge table': ['qcow2', () => qcow2([], u32(36, 0x7fffffff)), /refused: .+/],
  'a qcow2 file with an unknown feature': ['qcow2', () => qcow2([], u64(72, 1n << 60n)), /qemu-img cannot read it/],
  'a qcow2 file marked as corrupt': ['qcow2', () => qcow2([], u64(72, 2n)), /marked as corrupt/],
  'a qcow2 file that claims to be raw': ['raw', () => qcow2(), /disk_format is raw, but it starts as a qcow file/],
  'a raw file with the magic of qcow2': ['raw', text('QFI\xfb'), /it starts as a qcow file/],
  'a raw file that claims to be qcow2': ['qcow2', text('x'), /no qcow2 header/],
  'a VMDK descriptor that names a file': [
    'raw',
    text('# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/shadow" 0\n'),
    /it starts as a VMDK file/,
  ],
  'a VMDK file': ['raw', text('KDMV'), /it starts as a VMDK file/],
  'a VHDX file': ['raw', text('vhdxfile'), /it starts as a VHDX file/],
  'a QED file': ['raw', text('QED\0'), /it starts as a QED file/],
  'a LUKS container': ['raw', text('LUKS\xba\xbe'), /it starts as a LUKS file/],
  'a file without an ISO 9660 volume that claims to be one': ['iso', text('x', 65536), /no ISO 9660 volume descriptor/],
  'nothing at all': ['raw', async () => Buffer.alloc(0), /it is empty/],
};

/** Asks for an image of this format, and sends the bytes. */
async function upload(diskFormat: string, bytes: Buffer) {
  const description = { name: 'x', disk_format: diskFormat, container_format: 'bare' };
  const { id } = await lab.cloud.expect('image', 'POST', '/v2/images', { body: description });
  const answer = await fetch(`${lab.service.url}/image/v2/images/${id}/file`, {
    method: 'PUT',
    headers: { 'x-auth-token': await lab.cloud.token(), 'content-type': 'application/octet-stream' },
    body: new Uint8Array(bytes),
  });
  return { id: id as string, status: answer.status, text: await answer.text() };
}

async function files(): Promise<string[]> {
  const found = await Promise.all(
    ['images', 'cache/images'].map((path) => readdir(join(lab.service.stateDirectory, path)).catch(() => [])),
  );
  return found.flat().sort();
}

describe('an image that is not what it claims', { timeout: 300_000 }, () => {
  for (const [what, [claim, make, reason]] of Object.entries(refused)) {
    it(`is refused: ${what}`, async () => {
      const before = await files();
      const { id, status, text: told } = await upload(claim, await make());
      assert.equal(status, 400, told);
      assert.match(told, reason);
      assert.ok(!told.includes(folder) && !told.includes(lab.service.directory), `a path of the host is told: ${told}`);
      assert.deepEqual(await files(), before);
      const { status: state, size } = await lab.cloud.expect('image', 'GET', `/v2/images/${id}`);
      assert.deepEqual([state, size], ['queued', null]);
      const server = { name: 'x', imageRef: id, flavorRef: 'tiny', networks: 'none' };
      const created = await lab.cloud.request('compute', 'POST', '/v2.1/servers', { body: { server } });
      assert.equal(created.status, 400);
      // The same image takes bytes that are in order.
      await lab.cloud.expect('image', 'DELETE', `/v2/images/${id}`);
    });
  }

  it('cannot be made so later: what it is, is fixed with its bytes', async () => {
    const { id, status } = await upload('raw', randomBytes(4096));
    assert.equal(status, 204);
    const headers = { 'content-type': 'application/openstack-images-v2.1-json-patch' };
    const body = [{ op: 'replace', path: '/disk_format', value: 'qcow2' }];
    assert.equal((await lab.cloud.request('image', 'PATCH', `/v2/images/${id}`, { body, headers })).status, 403);
    const again = await fetch(`${lab.service.url}/image/v2/images/${id}/file`, {
      method: 'PUT',
      headers: { 'x-auth-token': await lab.cloud.token(), 'content-type': 'application/octet-stream' },
      body: new Uint8Array(await qcow2(['-b', secretFile, '-F', 'raw'])),
    });
    assert.equal(again.status, 409);
    await lab.cloud.expect('image', 'DELETE', `/v2/images/${id}`);
  });

  it('brings nothing of the host into a server, while one in order boots', async () => {
    const { id, status } = await upload('qcow2', await filled());
    assert.equal(status, 204);
    await lab.cloud.expect('image', 'DELETE', `/v2/images/${id}`);
    const server = await lab.createActive();
    await lab.delete(server);
    await lab.expectTidy();
    assert.deepEqual(
      (await files()).filter((name) => name !== lab.image),
      [],
    );
    assert.ok(!(await lab.service.log()).includes(WORD));
  });
});
