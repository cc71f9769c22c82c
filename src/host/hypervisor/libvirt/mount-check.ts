import { readFile } from 'node:fs/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import { mountAt, parseMountInfo } from '#host/mount-info.ts';

/**
 * Guarantees that libvirtd sees at `file` the same FUSE mount that we see. Without it, saving a guest's memory there
 * would silently write it in clear into the folder below.
 *
 * @throws memory-unprotected.
 */
export async function checkSeenByLibvirt(serverId: ServerId, file: HostPath, libvirtdPidFile: HostPath): Promise<void> {
  const refuse = (reason: string) =>
    new NightlatchError('memory-unprotected', { server: serverId, path: file, reason });
  const here = mountAt(parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')), file);
  if (!here?.type.startsWith('fuse')) throw refuse('it is not unlocked');
  const pid = Number((await readFile(libvirtdPidFile, 'utf8').catch(() => '')).trim());
  const theirs = pid > 1 ? await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => '') : '';
  if (theirs === '') throw refuse('the libvirtd process cannot be found');
  const there = mountAt(parseMountInfo(theirs), file);
  if (there?.device !== here.device)
    throw refuse(there === null ? 'nothing is mounted there' : 'something else is mounted there');
}
