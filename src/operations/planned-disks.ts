import { CONFIG_DRIVE_BYTES } from '#core/config-drive.ts';
import type { DiskRole } from '#core/disk.ts';
import type { ImageId } from '#core/ids.ts';
import { GIB, MIB, roundUpToSector } from '#core/sizes.ts';
import type { DiskRow } from '#db/disks.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';

/** A disk that a server is to have. */
export type PlannedDisk = {
  readonly role: DiskRole;
  readonly ordinal: number;
  readonly sizeBytes: number;
  readonly imageId: ImageId | null;
};

/** Those that flavor and request call for. Nova names the same ones. A server without an image boots from a volume. */
export function plannedDisks(wanted: {
  readonly flavor: Pick<ServerFlavor, 'rootGib' | 'ephemeralGib' | 'swapMib'>;
  readonly imageId: ImageId | null;
  readonly imageBytes: number;
  readonly configDrive: boolean;
}): PlannedDisk[] {
  const { flavor, imageId, imageBytes, configDrive } = wanted;
  const disk = (role: DiskRole, sizeBytes: number): PlannedDisk => ({ role, ordinal: 0, sizeBytes, imageId: null });
  const rootBytes = flavor.rootGib > 0 ? flavor.rootGib * GIB : roundUpToSector(imageBytes);
  return [
    ...(imageId === null ? [] : [{ ...disk('root', rootBytes), imageId }]),
    ...(flavor.ephemeralGib > 0 ? [disk('ephemeral', flavor.ephemeralGib * GIB)] : []),
    ...(flavor.swapMib > 0 ? [disk('swap', flavor.swapMib * MIB)] : []),
    ...(configDrive ? [disk('config-drive', CONFIG_DRIVE_BYTES)] : []),
  ];
}

const isData = ({ role }: Pick<PlannedDisk, 'role'>) => role === 'root' || role === 'ephemeral';

/**
 * Of the disks a resized server is to have, those that must be made. When one that holds data is not as it is to be, all
 * that do are made anew, so that a revert gives them back as of one moment; what is swapped out is worth nothing then.
 */
export function disksToReplace(wanted: readonly PlannedDisk[], live: readonly DiskRow[]): PlannedDisk[] {
  const isAsWanted = ({ role, ordinal, sizeBytes }: PlannedDisk) =>
    live.some((disk) => disk.role === role && disk.ordinal === ordinal && disk.size_bytes === sizeBytes);
  const data = wanted.filter(isData);
  const swap = wanted.filter(({ role }) => role === 'swap');
  return [...(data.every(isAsWanted) ? [] : data), ...swap.filter((disk) => !isAsWanted(disk))];
}
