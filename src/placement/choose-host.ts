import type { HostName } from '#core/ids.ts';

/** What a server needs of a host. */
export type Demand = {
  readonly traits: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
};

/** A host with what is left of it. */
export type Candidate = {
  readonly name: HostName;
  readonly traits: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
  readonly used: { readonly vcpus: number; readonly memoryMib: number; readonly diskGib: number };
};

export type Choice = { readonly host: HostName } | { readonly host: null; readonly reason: string };

/** Nova's default ratio of virtual to physical CPUs (`initial_cpu_allocation_ratio`). */
const CPU_RATIO = 4;

/** The host with the most free memory that has every trait and enough of everything; or why there is none. */
export function chooseHost(candidates: readonly Candidate[], demand: Demand): Choice {
  if (candidates.length === 0) return { host: null, reason: 'No compute host has reported in.' };
  const refusals: string[] = [];
  const fitting = candidates.filter((candidate) => {
    const refusal = whyNot(candidate, demand);
    if (refusal) refusals.push(`${candidate.name} ${refusal}`);
    return refusal === null;
  });
  const best = fitting.sort((a, b) => freeMemory(b) - freeMemory(a))[0];
  if (best) return { host: best.name };
  return { host: null, reason: `There are not enough hosts available: ${refusals.join('; ')}.` };
}

function whyNot(host: Candidate, demand: Demand): string | null {
  const lacking = demand.traits.filter((trait) => !host.traits.includes(trait));
  if (lacking.length > 0) return `lacks the trait ${lacking.join(', ')}`;
  const freeVcpus = host.vcpus * CPU_RATIO - host.used.vcpus;
  if (demand.vcpus > freeVcpus) return `has ${freeVcpus} virtual CPUs free of the ${demand.vcpus} asked for`;
  if (demand.memoryMib > freeMemory(host))
    return `has ${freeMemory(host)} MiB of memory free of the ${demand.memoryMib} asked for`;
  const freeDisk = host.diskGib - host.used.diskGib;
  if (demand.diskGib > freeDisk) return `has ${freeDisk} GiB of disk free of the ${demand.diskGib} asked for`;
  return null;
}

function freeMemory(host: Candidate): number {
  return host.memoryMib - host.used.memoryMib;
}
