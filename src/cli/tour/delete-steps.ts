import { link, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nothingInClear } from '#cli/tour/disk-steps.ts';
import { leftOpen } from '#cli/tour/host-look.ts';
import { dumpHeader, findMedia, type Medium, readHeader } from '#cli/tour/media.ts';
import { type Evidence, must, type Told } from '#cli/tour/narrator.ts';
import type { TourServer } from '#cli/tour/server-steps.ts';
import type { TourService } from '#cli/tour/tour-service.ts';
import type { ServerId } from '#core/ids.ts';
import { latestAudit, verifyAudit } from '#keys/audit.ts';

/** Headers are compared in pieces of this size. */
const PIECE_BYTES = 4096;

/** A disk that stays readable after its file is removed, with its header as it was before. */
type Witness = { readonly medium: Medium; readonly header: Buffer };

/** Deletes the server; its secrets must be gone, its headers overwritten, its disks removed. */
export async function deleteServer(tour: TourService, server: TourServer, needle: string): Promise<Told<null>> {
  const { client, id } = server;
  const { paths, db } = tour.state;
  const folder = join(paths.disks, id);
  const kept = join(paths.disks, '../cache/tour-witness');
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(kept, { recursive: true, force: true }));
  const witnesses = await keepWitnesses(folder, kept);
  const secrets = await secretsOf(tour, id);
  must(secrets.length === witnesses.length, `${witnesses.length} disks have ${secrets.length} secrets`);

  await client.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
  await client.waitUntilGone(id);

  const overwritten = await Promise.all(witnesses.map(mustBeOverwritten));
  const left = await db.selectFrom('secrets').select('id').where('id', 'in', secrets).execute();
  must(left.length === 0, `${left.length} secrets of the deleted server are still there`);
  const files = await findMedia(folder);
  must(files.length === 0, `disks of the deleted server are still there: ${files.map(({ path }) => path).join(', ')}`);
  const open = leftOpen(await tour.observer.look(id));
  must(open.length === 0, `the deleted server is not locked: ${open.join('; ')}`);
  const promise = 'Deleting destroys';
  return {
    value: null,
    evidence: [
      { lookedAt: `server ${id.slice(0, 8)}…`, found: '404, no such server' },
      { lookedAt: 'secrets in the database', found: `0 of the ${secrets.length} there were`, promise },
      ...overwritten,
      {
        lookedAt: 'headers, by hard links made before',
        found: `${overwritten.length} of ${overwritten.length} overwritten`,
        promise,
      },
      { lookedAt: `folder disks/${id.slice(0, 8)}…`, found: 'gone' },
      ...(await nothingInClear(tour, needle, 'No plaintext at rest: deleted')),
    ],
  };
}

/** Hard links keep the disks' contents reachable after the service has removed its files. */
async function keepWitnesses(folder: string, kept: string): Promise<Witness[]> {
  await rm(kept, { recursive: true, force: true });
  await mkdir(kept, { mode: 0o700 });
  const media = await findMedia(folder);
  return await Promise.all(
    media.map(async (medium, i) => {
      const path = join(kept, String(i));
      await link(medium.path, path);
      return { medium: { ...medium, path }, header: await readHeader(medium) };
    }),
  );
}

/** @throws when a piece of the old header that held anything is as it was. */
async function mustBeOverwritten({ medium, header }: Witness): Promise<Evidence> {
  const now = await readHeader(medium);
  let held = 0;
  for (let at = 0; at < header.length; at += PIECE_BYTES) {
    const piece = header.subarray(at, at + PIECE_BYTES);
    if (piece.every((byte) => byte === 0)) continue;
    held++;
    const same = piece.equals(now.subarray(at, at + PIECE_BYTES));
    must(!same, `the header of the ${medium.role} disk is still there at byte ${medium.header.offset + at}`);
  }
  must(held > 0, `the ${medium.role} disk had no header before it was deleted`);
  const dump = await dumpHeader(now);
  must(dump === null, `cryptsetup still reads the header of the ${medium.role} disk`);
  return {
    lookedAt: `old header, ${medium.role}`,
    found: `${held} of ${held} pieces of 4 KiB have other bytes; cryptsetup: not LUKS`,
  };
}

async function secretsOf({ state }: TourService, id: string) {
  const disks = await state.db
    .selectFrom('disks')
    .select('secret_id')
    .where('owner_id', '=', id as ServerId)
    .where('secret_id', 'is not', null)
    .execute();
  return disks.map(({ secret_id }) => secret_id).filter((secret) => secret !== null);
}

/** The audit log must be unbroken, and balanced for the server's disks. */
export async function verifyAuditLog({ state }: TourService, { id }: TourServer): Promise<Told<null>> {
  const verdict = await verifyAudit(state.db);
  must(verdict.ok, verdict.ok ? '' : `the audit log is broken at record ${verdict.brokenAt}: ${verdict.reason}`);
  const disks = await state.db
    .selectFrom('disks')
    .select('id')
    .where('owner_id', '=', id as ServerId)
    .execute();
  const ids = new Set<string>(disks.map((disk) => disk.id));
  const records = (await latestAudit(state.db, verdict.records)).filter(({ facts }) => ids.has(facts.disk ?? ''));
  const count = (event: string) => records.filter((record) => record.event === event).length;
  const [stored, destroyed] = [count('key-stored'), count('key-destroyed')];
  const [opened, closed, released] = [count('lease-opened'), count('lease-closed'), count('key-released')];
  must(
    stored === ids.size && destroyed === ids.size,
    `${ids.size} disks, ${stored} keys stored, ${destroyed} destroyed`,
  );
  must(opened === closed && released >= opened, `${opened} leases opened, ${closed} closed, ${released} keys released`);
  const chain = `${verdict.records} records, unbroken, head ${verdict.head.slice(0, 16)}…`;
  return {
    value: null,
    evidence: [
      { lookedAt: 'hash chain of the audit log', found: chain, promise: 'Every release of a key is recorded' },
      {
        lookedAt: `keys of its ${ids.size} disks`,
        found: `${stored} stored, ${released} released, ${destroyed} destroyed`,
      },
      { lookedAt: 'leases of its disks', found: `${opened} opened, ${closed} closed` },
    ],
  };
}
