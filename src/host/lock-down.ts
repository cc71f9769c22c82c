import { setTimeout as delay } from 'node:timers/promises';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import type { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import type { FuseExports } from '#host/fuse-exports.ts';
import { type DiskPlaces, findGuestProcesses, signalGuest } from '#host/guest-process.ts';
import type { Hypervisor } from '#host/hypervisor/hypervisor.ts';

/** Where guests and keys are on a host. */
export type LockDownParts = {
  readonly places: DiskPlaces;
  /** Null: it does not run, and what it kept is gone. */
  readonly hypervisor: Pick<Hypervisor, 'domains' | 'destroy' | 'secrets' | 'forgetSecrets'> | null;
  readonly exports: FuseExports;
  /** Null: this host opens none. */
  readonly mappings: Mappings | null;
};

/** What must not be there on a host that is locked. */
export const openKinds = ['guests', 'unlocked disks', 'mappings', 'libvirt secrets'] as const;
export type OpenKind = (typeof openKinds)[number];
/** What was found of each kind; an error where it could not be looked up. */
export type Found = Readonly<Record<OpenKind, readonly string[] | Error>>;

/** A guest that does not end when it is told to is killed after this time. */
const GUEST_PATIENCE_MS = 1000;
const LIBVIRT_PATIENCE_MS = 5000;
/** No further round is begun after this; a round takes as long as its slowest part. */
const TIMEOUT_MS = 15_000;
const PAUSE_MS = 100;
/** `cryptsetup close` spends its time waiting for udev. */
const CLOSED_AT_ONCE = 8;

/**
 * Ends every guest and locks every disk on a host, again and again until nothing is found and nobody whom `underWay`
 * counts is at work any more. Guests end by signal, so that it goes on when libvirt does not answer.
 *
 * *Throws* host-not-locked, with what is left, when that takes too long.
 */
export async function lockEverything(host: HostName, parts: LockDownParts, underWay: () => number): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS;
  for (;;) {
    const wasQuiet = underWay() === 0;
    await sweep(parts);
    const left = leftOpen(await findOpen(parts));
    if (wasQuiet && left.length === 0) return;
    if (Date.now() > deadline) {
      const reason = [...left, ...(wasQuiet ? [] : [`${underWay()} tasks of the service under way`])].join('; ');
      throw new NightlatchError('host-not-locked', { host, reason });
    }
    await delay(PAUSE_MS);
  }
}

/** Looks for all that is open on a host, in the kernel and in libvirt, not in anybody's memory of it. */
export async function findOpen({ places, hypervisor, exports, mappings }: LockDownParts): Promise<Found> {
  const [guests, unlocked, mapped, secrets] = await Promise.all([
    lookUp(async () => (await findGuestProcesses(places)).map(({ pid, serverId }) => `${serverId} (process ${pid})`)),
    lookUp(() => exports.exported()),
    lookUp(async () => ((await mappings?.list()) ?? []).map(({ name }) => name)),
    lookUp(async () => (hypervisor === null ? [] : await soon(hypervisor.secrets()))),
  ]);
  return { guests, 'unlocked disks': unlocked, mappings: mapped, 'libvirt secrets': secrets };
}

/** What is still open, in words, a line a kind; empty when the host is locked. */
export function leftOpen(found: Found): string[] {
  return openKinds.flatMap((kind) => {
    const things = found[kind];
    if (things instanceof Error) return [`${kind} could not be looked up: ${describeError(things)}`];
    return things.length === 0 ? [] : [`${kind}: ${things.join(', ')}`];
  });
}

/** Each part is ended whatever becomes of the others; what failed is found again by whoever looks. */
async function sweep(parts: LockDownParts): Promise<void> {
  const { hypervisor, exports, mappings } = parts;
  // Before guests are told to end: they flush, and would wait for ever.
  await mappings?.failSuspended('Locking the host').catch(() => {});
  const [domains] = await Promise.all([
    hypervisor === null ? [] : soon(hypervisor.domains()).catch(() => []),
    endGuests(parts.places).catch(() => {}),
    hypervisor && soon(hypervisor.forgetSecrets()).catch(() => {}),
  ]);
  const present = domains.filter(({ state }) => state !== 'absent');
  await Promise.allSettled(present.map(({ serverId }) => hypervisor && soon(hypervisor.destroy(serverId))));
  const unlocked = await exports.exported().catch(() => []);
  await Promise.allSettled([...unlocked.map((id) => exports.withdraw(id)), closeAll(mappings)]);
}

/** A guest that is told to end flushes what it had written; one that does not end soon is killed. */
async function endGuests(places: DiskPlaces): Promise<void> {
  const deadline = Date.now() + GUEST_PATIENCE_MS;
  for (const guest of await findGuestProcesses(places)) await signalGuest(guest, places, 'SIGTERM');
  for (;;) {
    const left = await findGuestProcesses(places);
    if (left.length === 0) return;
    if (Date.now() > deadline) {
      for (const guest of left) await signalGuest(guest, places, 'SIGKILL');
      return;
    }
    await delay(PAUSE_MS / 2);
  }
}

async function closeAll(mappings: Mappings | null): Promise<void> {
  const waiting = (await mappings?.list()) ?? [];
  const closer = async () => {
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      await mappings?.close(next.name, `Locking disk ${next.diskId}`).catch(() => {});
    }
  };
  await Promise.all(Array.from({ length: CLOSED_AT_ONCE }, closer));
}

async function lookUp(look: () => Promise<readonly string[]>): Promise<readonly string[] | Error> {
  return look().catch((error: unknown) => (error instanceof Error ? error : new Error(String(error))));
}

/** libvirt may hang for as long as it likes; what it was asked goes on without anybody waiting. */
async function soon<T>(answer: Promise<T>): Promise<T> {
  const late = new AbortController();
  const timeout = delay(LIBVIRT_PATIENCE_MS, undefined, { signal: late.signal }).then(() => {
    throw new Error(`libvirt did not answer within ${LIBVIRT_PATIENCE_MS / 1000} s`);
  });
  timeout.catch(() => {});
  try {
    return await Promise.race([answer, timeout]);
  } finally {
    late.abort();
  }
}
