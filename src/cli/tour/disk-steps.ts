import { join } from 'node:path';
import { searchFiles } from '#cli/tour/marker-search.ts';
import {
  dumpHeader,
  encryptionByQemu,
  findMedia,
  type LuksDump,
  type Medium,
  readHeader,
  tryWrongKey,
} from '#cli/tour/media.ts';
import { type Evidence, must, type Told } from '#cli/tour/narrator.ts';
import type { TourServer } from '#cli/tour/server-steps.ts';
import type { TourService } from '#cli/tour/tour-service.ts';
import { MIB } from '#core/sizes.ts';

/** The disks that a server has while it is not suspended. */
const ROLES = ['root', 'ephemeral', 'swap', 'config drive'];

/** A disk, with what its header says. */
export type LockedMedium = { readonly medium: Medium; readonly dump: LuksDump };

/** Shows that each disk is a LUKS1 container with a secret of its own, and that nothing of the guest's lies in clear. */
export async function showDisks(tour: TourService, server: TourServer, needle: string): Promise<Told<null>> {
  const locked = await lockedMedia(tour, server);
  const roles = locked.map(({ medium }) => medium.role);
  must(roles.join() === ROLES.join(), `the server has the disks ${roles.join(', ')} instead of ${ROLES.join(', ')}`);
  const each = await Promise.all(locked.map(describeMedium));
  const refusals = await refuseWrongKeys(locked);
  return {
    value: null,
    evidence: [
      ...each,
      await differentSecrets(tour, server, locked),
      { lookedAt: `qemu-io, a wrong key on each disk`, found: refusals, promise: 'A wrong key opens nothing' },
      ...(await nothingInClear(tour, needle, 'No plaintext at rest: running')),
    ],
  };
}

/** The disks of a server, with what cryptsetup says of each. @throws unless each is LUKS version 1. */
export async function lockedMedia({ state }: TourService, { id }: TourServer): Promise<LockedMedium[]> {
  const media = await findMedia(join(state.paths.disks, id));
  return await Promise.all(
    media.map(async (medium) => {
      const dump = await dumpHeader(await readHeader(medium));
      must(dump !== null, `the ${medium.role} disk ${medium.path} is no LUKS container`);
      must(
        dump.version === '1' && dump.slots === 1,
        `the ${medium.role} disk is LUKS${dump.version}, slots ${dump.slots}`,
      );
      return { medium, dump };
    }),
  );
}

/** What a disk is, by cryptsetup and by QEMU. @throws when QEMU sees no encryption. */
export async function describeMedium({ medium, dump }: LockedMedium): Promise<Evidence> {
  const byQemu = await encryptionByQemu(medium);
  must(byQemu.startsWith('luks'), `qemu-img info finds the ${medium.role} disk encrypted by ${byQemu}`);
  const said = `LUKS${dump.version} ${dump.cipher}, ${dump.keyBits} bits, ${dump.slots} key slot`;
  return { lookedAt: `luksDump, qemu-img: ${medium.role}`, found: `${said}; ${medium.format}, ${byQemu}` };
}

/** Tries a key that is not theirs on disks. @throws when one opens. */
export async function refuseWrongKeys(locked: readonly LockedMedium[]): Promise<string> {
  const said = new Set<string>();
  for (const { medium } of locked) said.add(await tryWrongKey(medium));
  return `${locked.length} of ${locked.length} refused: ${[...said].join('; ')}`;
}

async function differentSecrets(
  { state }: TourService,
  { id }: TourServer,
  locked: readonly LockedMedium[],
): Promise<Evidence> {
  const disks = (await state.db.selectFrom('disks').selectAll().execute()).filter((disk) => disk.owner_id === id);
  const secrets = (await state.db.selectFrom('secrets').selectAll().execute()).filter((secret) =>
    disks.some((disk) => disk.secret_id === secret.id),
  );
  const wrapped = new Set(secrets.map((secret) => secret.wrapped.toString('hex'))).size;
  const digests = new Set(locked.map(({ dump }) => dump.digest)).size;
  const counts = [disks.length, secrets.length, wrapped, digests];
  must(
    counts.every((count) => count === locked.length),
    `${locked.length} disks have ${secrets.length} secrets, ${wrapped} of them different, and ${digests} volume keys`,
  );
  return {
    lookedAt: `secrets of its ${locked.length} disks`,
    found: `${wrapped} different secrets, ${digests} different volume keys`,
    promise: 'Every disk has its own key',
  };
}

/** Reads everything on the media for the guest's markers. @throws, naming the files, when one is there. */
export async function nothingInClear({ state }: TourService, needle: string, promise: string): Promise<Evidence[]> {
  const directory = join(state.paths.disks, '..');
  const { files, bytes, holding } = await searchFiles(directory, Buffer.from(needle));
  must(holding.length === 0, `a marker of the guest lies in clear in ${holding.join(', ')}`);
  const total = [...bytes.values()].reduce((sum, part) => sum + part, 0);
  const parts = [...bytes].sort(([, a], [, b]) => b - a).map(([place, part]) => `${place} ${mib(part)}`);
  return [
    { lookedAt: 'every byte of every file', found: `no marker in ${files} files, ${mib(total)} MiB`, promise },
    { lookedAt: 'among them, MiB', found: parts.join(', ') },
  ];
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(bytes < 10 * MIB ? 1 : 0);
}
