import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { grantPrivilege } from '#host/grant.ts';
import { boots, chooseVirtType } from '#host/hypervisor/libvirt/probe-kvm.ts';
import { mountAt, parseMountInfo } from '#host/mount-info.ts';
import { prepareRunDirectory, releaseRunDirectory } from '#host/run-directory.ts';

describe('a run directory', () => {
  let data: string;
  let directory: HostPath;
  before(async () => {
    data = await mkdtemp('/tmp/nl-run-');
    grantPrivilege({ directories: [data] });
    directory = `${data}/run dir` as HostPath;
  });
  after(async () => {
    await releaseRunDirectory(directory);
    await rm(data, { recursive: true });
  });

  async function mountLines(): Promise<string[]> {
    const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
    return lines.filter((line) => parseMountInfo(line)[0]?.path === directory);
  }

  test('is a shared memory file system with its folders; a repeat adopts it with what is in it', async () => {
    const { libvirt } = await prepareRunDirectory(directory);
    await writeFile(`${libvirt}/kept`, '');
    await prepareRunDirectory(directory);
    const lines = await mountLines();
    assert.equal(lines.length, 1);
    assert.match(String(lines[0]), / shared:\d+ .*- tmpfs /);
    assert.deepEqual((await readdir(directory)).sort(), ['console', 'lv', 'tty', 'unlocked']);
    assert.deepEqual(await readdir(libvirt), ['kept']);
  });

  test('once released it is gone with all that was in it; a repeat is fine', async () => {
    await releaseRunDirectory(directory);
    await releaseRunDirectory(directory);
    assert.equal(mountAt(parseMountInfo((await mountLines()).join('\n')), directory), null);
    assert.deepEqual(await readdir(directory), []);
  });

  for (const [path, reason] of [
    [`/tmp/${'x'.repeat(80)}`, /paths of 126 bytes and a UNIX socket can have 107/],
    ['/var/lib/libvirt/nightlatch', /looks different to the private libvirt/],
    ['relative', /not an absolute path/],
    ['/proc', /a proc file system is mounted there/],
  ] as const) {
    test(`${path.slice(0, 30)} is refused, and why is said`, async () => {
      await assert.rejects(prepareRunDirectory(path as HostPath), (error) => {
        assert.ok(error instanceof NightlatchError && error.code === 'run-directory-unfit', String(error));
        assert.match(error.message, reason);
        return true;
      });
    });
  }

  test('the choice of KVM: as configured; auto without a kernel to try it with is emulation, and stays', async () => {
    await prepareRunDirectory(directory);
    assert.equal((await chooseVirtType('kvm', { runDirectory: directory })).virtType, 'kvm');
    assert.equal((await chooseVirtType('qemu', { runDirectory: directory })).virtType, 'qemu');
    const options = { runDirectory: directory, kernel: '/no/kernel' as HostPath };
    const verdict = await chooseVirtType('auto', options);
    assert.equal(verdict.virtType, 'qemu');
    const kept = { virtType: 'kvm', reason: 'kept', kernel: options.kernel };
    await writeFile(`${directory}/virt-type.json`, JSON.stringify(kept));
    assert.deepEqual(await chooseVirtType('auto', options), { virtType: 'kvm', reason: 'kept' });
    await writeFile(`${directory}/virt-type.json`, '{"virtType":');
    assert.deepEqual(await chooseVirtType('auto', options), verdict);
  });

  test('what is no kernel does not count as one that boots', async () => {
    const file = `${data}/no-kernel` as HostPath;
    await writeFile(file, Buffer.alloc(65536, 'Unable to mount root fs'));
    assert.equal(await boots(file, 'tcg', 1000), false);
  });
});
