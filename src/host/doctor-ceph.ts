import { describeError } from '#core/errors.ts';
import { GIB } from '#core/sizes.ts';
import type { Finding } from '#host/doctor.ts';
import { hasProgram, type Program, packageOf, run } from '#host/exec.ts';
import { Images, type Pool } from '#host/storage/rbd/images.ts';
import { readClusterKey } from '#host/storage/rbd/keyring.ts';

const PROGRAMS: readonly Program[] = ['rbd', 'ceph', 'ceph-conf'];

/** What a host needs for disks that are images in pools; nothing is left of a look. */
export async function examineCeph(pools: readonly Pool[]): Promise<Finding[]> {
  const missing = (await Promise.all(PROGRAMS.map(programFinding))).filter(({ verdict }) => verdict === 'fail');
  if (missing.length > 0) return missing;
  const each = pools.map(async (pool) => [await keyFinding(pool), await poolFinding(pool)]);
  return [await qemuFinding(), ...(await Promise.all(each)).flat()];
}

async function programFinding(program: Program): Promise<Finding> {
  const check = `program ${program}`;
  if (await hasProgram(program)) return { check, verdict: 'ok', detail: 'installed' };
  return { check, verdict: 'fail', detail: `missing: apt-get install ${packageOf(program)}` };
}

/** Guests come to their images by QEMU's own driver, which Debian keeps apart. */
async function qemuFinding(): Promise<Finding> {
  const check = 'QEMU and Ceph';
  const { stdout } = await run('qemu-img', ['--help'], { doing: 'Looking what QEMU can read' });
  if (/^Supported formats:.*\brbd\b/m.test(stdout)) return { check, verdict: 'ok', detail: 'it reads images in pools' };
  return { check, verdict: 'fail', detail: 'it reads no images in pools: apt-get install qemu-block-extra' };
}

async function keyFinding(pool: Pool): Promise<Finding> {
  const check = `key of client.${pool.user}`;
  try {
    using key = await readClusterKey(pool);
    return { check, verdict: 'ok', detail: `${key.use((bytes) => bytes.length)} bytes, in its keyring` };
  } catch (error) {
    return { check, verdict: 'fail', detail: describeError(error) };
  }
}

async function poolFinding(pool: Pool): Promise<Finding> {
  const check = `pool ${pool.name}`;
  const images = new Images(pool);
  const doing = `Looking at pool ${pool.name}`;
  try {
    const { length } = await images.list(doing);
    const capacity = await images.capacityBytes(doing);
    return { check, verdict: 'ok', detail: `${length} images, room for ${(capacity / GIB).toFixed(0)} GiB` };
  } catch (error) {
    return { check, verdict: 'fail', detail: describeError(error) };
  }
}
