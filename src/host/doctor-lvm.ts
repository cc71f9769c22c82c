import { access } from 'node:fs/promises';
import { describeError, NightlatchError } from '#core/errors.ts';
import { GIB } from '#core/sizes.ts';
import type { Finding } from '#host/doctor.ts';
import { checkCipher } from '#host/encryption/dm-crypt/probe.ts';
import { hasProgram, type Program, packageOf, run } from '#host/exec.ts';
import { Volumes } from '#host/storage/lvm/volumes.ts';

/** What a host that keeps disks on logical volumes is configured to use. */
export type LvmSubject = {
  readonly places: readonly { readonly volumeGroup: string; readonly thinPool: string | null }[];
  readonly ciphers: readonly { readonly cipher: string; readonly keyBits: number }[];
};

const PROGRAMS: readonly Program[] = ['lvs', 'vgs', 'lvcreate', 'dmsetup', 'blkdiscard', 'shred'];
/** systemd-udevd listens here while it runs. */
const UDEV_SOCKET = '/run/udev/control';
const LITTLE_ROOM_BYTES = 10 * GIB;

/** What a host needs for disks on logical volumes; nothing is left of a look. */
export async function examineLvm(subject: LvmSubject): Promise<Finding[]> {
  const programs = await Promise.all(PROGRAMS.map(programFinding));
  if (programs.some(({ verdict }) => verdict === 'fail')) return programs;
  const ciphers: Finding[] = [];
  // One after the other: a probe has one name.
  for (const one of subject.ciphers) ciphers.push(await cipherFinding(one));
  const places = await Promise.all(
    subject.places.map(async ({ volumeGroup, thinPool }) => [
      await groupFinding(volumeGroup),
      ...(thinPool === null ? [] : [await poolFinding(volumeGroup, thinPool)]),
    ]),
  );
  return [...programs, ...places.flat(), await filterFinding(), await udevFinding(), ...ciphers];
}

async function programFinding(program: Program): Promise<Finding> {
  const check = `program ${program}`;
  if (await hasProgram(program)) return { check, verdict: 'ok', detail: 'installed' };
  const detail = `missing, so that no disk can be encrypted: apt-get install ${packageOf(program)}`;
  return { check, verdict: 'fail', detail };
}

async function groupFinding(group: string): Promise<Finding> {
  const check = 'volume group';
  try {
    const { freeBytes } = await new Volumes(group).groupRoom(`Looking at volume group ${group}`);
    const detail = `${group} has ${(freeBytes / GIB).toFixed(1)} GiB free`;
    if (freeBytes >= LITTLE_ROOM_BYTES) return { check, verdict: 'ok', detail };
    return { check, verdict: 'warn', detail: `${detail}: creating servers will soon fail` };
  } catch (error) {
    return { check, verdict: 'fail', detail: `${describeError(error)}. Make it with vgcreate, or name another.` };
  }
}

async function poolFinding(group: string, pool: string): Promise<Finding> {
  const check = 'thin pool';
  const found = await new Volumes(group).find(pool, `Looking at thin pool ${pool}`).catch(() => null);
  if (found !== null) return { check, verdict: 'ok', detail: `${(found.sizeBytes / GIB).toFixed(1)} GiB` };
  return { check, verdict: 'fail', detail: `${group} has no ${pool}: lvcreate --type thin-pool -n ${pool} ${group}` };
}

/** Our own calls of LVM bring a filter along; those of the operator and of udev have what is configured. */
async function filterFinding(): Promise<Finding> {
  const check = 'LVM filter';
  const args = ['--typeconfig', 'full', 'devices/global_filter'];
  const { stdout } = await run('lvmconfig', args, { doing: 'Looking at the configuration of LVM' });
  if (/"r\|\^\/dev\/mapper\/nl-/.test(stdout)) return { check, verdict: 'ok', detail: 'LVM looks at no open disk' };
  const detail = 'LVM looks for volumes on open disks of guests: put global_filter = [ "r|^/dev/mapper/nl-|" ]';
  return { check, verdict: 'warn', detail: `${detail} into the devices section of /etc/lvm/lvm.conf` };
}

/** Without it /dev/mapper has no links, or old ones. */
async function udevFinding(): Promise<Finding> {
  const runs = await access(UDEV_SOCKET).then(
    () => true,
    () => false,
  );
  if (runs) return { check: 'udev', verdict: 'ok', detail: 'runs' };
  return { check: 'udev', verdict: 'warn', detail: 'does not run: LVM makes device nodes itself, which is less sure' };
}

async function cipherFinding({ cipher, keyBits }: LvmSubject['ciphers'][number]): Promise<Finding> {
  const check = `cipher ${cipher}, ${keyBits} bits`;
  try {
    await checkCipher(cipher, keyBits);
    return { check, verdict: 'ok', detail: 'the kernel can map a device with it' };
  } catch (error) {
    if (!(error instanceof NightlatchError)) throw error;
    return { check, verdict: 'fail', detail: error.message };
  }
}
