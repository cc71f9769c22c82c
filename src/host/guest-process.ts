import { isUuid, type ServerId } from '#core/ids.ts';
import { processIds, readCommandLine, signalProcess } from '#host/processes.ts';

/** A running QEMU that is the guest of a server. */
export type GuestProcess = { readonly pid: number; readonly serverId: ServerId };

/** Where this host keeps disks: a guest of ours has at least one of them open. */
export type DiskPlaces = {
  readonly disksDirectory: string;
  /** Where files of volumes lie. */
  readonly backendDirectories: readonly string[];
  readonly volumeGroups: readonly string[];
  readonly pools: readonly string[];
};

/**
 * The guests of ours that run on this host, whoever started them and whether libvirt answers or not: QEMU processes whose
 * command line names a disk of the server that they themselves are, or a volume.
 */
export async function findGuestProcesses(places: DiskPlaces): Promise<GuestProcess[]> {
  const pids = await processIds();
  const found = await Promise.all(pids.map(async (pid) => ({ pid, serverId: await guestOf(pid, places) })));
  return found.flatMap(({ pid, serverId }) => (serverId === null ? [] : [{ pid, serverId }]));
}

/** Sends a signal to the process if it is still that guest. */
export async function signalGuest(
  { pid, serverId }: GuestProcess,
  places: DiskPlaces,
  signal: NodeJS.Signals,
): Promise<void> {
  if ((await guestOf(pid, places)) === serverId) signalProcess(pid, signal);
}

/** A process that ended has an empty command line, also while nobody has collected it yet; its memory is gone. */
async function guestOf(pid: number, places: DiskPlaces): Promise<ServerId | null> {
  const words = (await readCommandLine(pid)).split('\0');
  if (!words[0]?.includes('qemu-system')) return null;
  const serverId = words[words.indexOf('-uuid') + 1] ?? '';
  if (!isUuid(serverId)) return null;
  const disks = [
    `"${places.disksDirectory}/${serverId}/`,
    `"/dev/mapper/nl-`,
    ...places.volumeGroups.flatMap((group) => [`"/dev/${group}/${serverId}_`, `"/dev/${group}/volume-`]),
    ...places.pools.map((pool) => `"pool":"${pool}","image":"${serverId}_`),
    ...places.backendDirectories.map((directory) => `"${directory}/volume-`),
  ];
  return words.some((word) => disks.some((disk) => word.includes(disk))) ? (serverId as ServerId) : null;
}
