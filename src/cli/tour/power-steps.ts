import { setTimeout as sleep } from 'node:timers/promises';
import type { MarkerReport } from '#cli/guest-image/guest-script.ts';
import { describeMedium, lockedMedia, nothingInClear, refuseWrongKeys } from '#cli/tour/disk-steps.ts';
import { mustHaveFound, TourGuest } from '#cli/tour/guest.ts';
import { findGuests, leftOpen, lockedEvidence } from '#cli/tour/host-look.ts';
import { searchMemory } from '#cli/tour/marker-search.ts';
import { type Evidence, must, type Told } from '#cli/tour/narrator.ts';
import { bootedGuest, type TourServer } from '#cli/tour/server-steps.ts';
import type { TourService } from '#cli/tour/tour-service.ts';

/** How soon everything must be locked once a guest has ended by itself. */
const LOCK_LIMIT_MS = 2000;
const GUEST_END_MS = 60_000;
const POLL_MS = 10;

/** Stops the server, and shows that nothing of it is open. */
export async function stopServer(tour: TourService, { client, id }: TourServer): Promise<Told<null>> {
  const leases = await mustHoldLeases(tour, id);
  await client.act(id, { 'os-stop': null });
  const { status } = await client.waitForStatus(id, 'SHUTOFF');
  await mustBeLocked(tour, id);
  return {
    value: null,
    evidence: [{ lookedAt: `server ${id.slice(0, 8)}…`, found: status }, ...lockedEvidence('stopped', leases)],
  };
}

/** Starts the server again; its guest must find what it wrote before. Returns what the guest said. */
export async function startServer(
  tour: TourService,
  server: TourServer,
  before: MarkerReport,
): Promise<Told<MarkerReport>> {
  await server.client.act(server.id, { 'os-start': null });
  await server.client.waitForStatus(server.id, 'ACTIVE');
  using guest = await bootedGuest(server);
  const report = await guest.markers();
  mustHaveFound(report, ['root', 'ephemeral', 'swap']);
  must(report.bootId !== before.bootId, `the guest still has the boot id ${before.bootId}: it never stopped`);
  const leases = await mustHoldLeases(tour, server.id);
  return {
    value: report,
    evidence: [
      { lookedAt: 'serial console of the guest', found: `booted, a new boot id ${report.bootId}` },
      { lookedAt: 'markers, read back by the guest', found: 'found on root, ephemeral and swap' },
      { lookedAt: 'leases in the database', found: `${leases}, one a disk` },
    ],
  };
}

/** Suspends the server; its memory must lie encrypted. */
export async function suspendServer(tour: TourService, server: TourServer, needle: string): Promise<Told<null>> {
  const { client, id } = server;
  const leases = await mustHoldLeases(tour, id);
  const control = await findInGuestMemory(id, needle);
  await client.act(id, { suspend: null });
  const { status } = await client.waitForStatus(id, 'SUSPENDED');
  await mustBeLocked(tour, id);
  const memory = (await lockedMedia(tour, server)).filter(({ medium }) => medium.role === 'saved memory');
  must(memory[0] !== undefined, 'the suspended server has no disk for its memory');
  return {
    value: null,
    evidence: [
      control,
      { lookedAt: `server ${id.slice(0, 8)}…`, found: status },
      await describeMedium(memory[0]),
      { lookedAt: 'qemu-io, a wrong key on the memory', found: await refuseWrongKeys(memory) },
      ...(await nothingInClear(tour, needle, 'No plaintext at rest: suspended')),
      ...lockedEvidence('suspended', leases),
    ],
  };
}

/** Resumes the server; the same boot must go on, with what it kept in memory. */
export async function resumeServer(tour: TourService, server: TourServer, before: MarkerReport): Promise<Told<null>> {
  await server.client.act(server.id, { resume: null });
  await server.client.waitForStatus(server.id, 'ACTIVE');
  using guest = await TourGuest.open(server.client, server.id, server.stop);
  const report = await guest.markers();
  must(report.bootId === before.bootId, `the guest has booted again: ${report.bootId} instead of ${before.bootId}`);
  mustHaveFound(report, ['root', 'ephemeral', 'swap', 'memory']);
  const left = (await lockedMedia(tour, server)).some(({ medium }) => medium.role === 'saved memory');
  must(!left, 'the saved memory is still there after the resume');
  return {
    value: null,
    evidence: [
      { lookedAt: 'serial console of the guest', found: `the same boot goes on, boot id ${report.bootId}` },
      { lookedAt: 'markers, read back by the guest', found: 'found on root, ephemeral and swap, and in its memory' },
      { lookedAt: 'the saved memory', found: 'destroyed once the guest had it back' },
    ],
  };
}

/** Lets the guest power itself off, and measures how long its keys outlive it, nobody having asked. */
export async function letGuestPowerOff(tour: TourService, server: TourServer): Promise<Told<null>> {
  const { client, id } = server;
  const leases = await mustHoldLeases(tour, id);
  using guest = await TourGuest.open(client, id, server.stop);
  await guest.powerOff();
  const lastSeen = await untilGuestEnds(id, server.stop);
  const ms = Math.round((await untilUnleased(tour, id, lastSeen, server.stop)) - lastSeen);
  must(ms <= LOCK_LIMIT_MS, `locking took ${ms} ms after the guest had ended; at most ${LOCK_LIMIT_MS} are promised`);
  await mustBeLocked(tour, id);
  const { status } = await client.waitForStatus(id, 'SHUTOFF');
  return {
    value: null,
    evidence: [
      {
        lookedAt: 'time from guest end to locked',
        found: `${ms} ms (promised: ${LOCK_LIMIT_MS})`,
        promise: 'A guest that ends locks its disks',
      },
      { lookedAt: `server ${id.slice(0, 8)}…`, found: status },
      ...lockedEvidence('powered off', leases),
    ],
  };
}

/** When the guest's process was last seen; it has ended since. */
async function untilGuestEnds(id: string, stop: AbortSignal): Promise<number> {
  const started = performance.now();
  for (let lastSeen = started; ; ) {
    const looking = performance.now();
    if ((await findGuests(id)).length === 0) return lastSeen;
    lastSeen = looking;
    must(looking - started < GUEST_END_MS, `the guest did not power off within ${GUEST_END_MS / 1000} s`);
    await sleep(POLL_MS, undefined, { signal: stop });
  }
}

/** When the last lease was found closed; gives up some time after the limit. */
async function untilUnleased({ observer }: TourService, id: string, since: number, stop: AbortSignal): Promise<number> {
  for (;;) {
    const leases = await observer.leases(id);
    if (leases.length === 0) return performance.now();
    const late = performance.now() - since > 5 * LOCK_LIMIT_MS;
    must(!late, `${leases.length} leases are still open ${(5 * LOCK_LIMIT_MS) / 1000} s after the guest ended`);
    await sleep(POLL_MS, undefined, { signal: stop });
  }
}

/** How many leases a running server has. @throws when it does not run, or has none. */
async function mustHoldLeases({ observer }: TourService, id: string): Promise<number> {
  const { qemu, leases } = await observer.look(id);
  must(qemu.length === 1, `the server has ${qemu.length} QEMU processes while it runs`);
  must(
    leases.length > 0 && leases.every((reason) => reason === 'run'),
    `its leases while it runs: ${leases.join(', ')}`,
  );
  return leases.length;
}

async function mustBeLocked({ observer }: TourService, id: string): Promise<void> {
  const open = leftOpen(await observer.look(id));
  must(open.length === 0, `the server is not locked: ${open.join('; ')}`);
}

/** The control of the search: where a marker does lie in clear, the same search must find it. */
async function findInGuestMemory(id: string, needle: string): Promise<Evidence> {
  const [pid] = await findGuests(id);
  const hits = pid === undefined ? 0 : await searchMemory(pid, Buffer.from(needle));
  must(hits !== 0, 'the search does not find the marker where it must be, in the memory of the running guest');
  const found = hits === null ? 'this system lets nobody look' : `the search finds a marker ${hits} times, as it must`;
  return { lookedAt: `memory of QEMU, process ${pid}`, found };
}
