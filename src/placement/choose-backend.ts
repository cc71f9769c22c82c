import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName, HostName } from '#core/ids.ts';
import { capabilitiesOf, type VolumeBackend } from '#core/volume-backend.ts';

/** A backend of a host that is up, with what is taken of it. */
export type BackendCandidate = {
  readonly host: HostName;
  readonly backend: VolumeBackend;
  readonly usedGib: number;
};

/** What a volume needs of its backend. */
export type VolumeDemand = {
  readonly sizeGib: number;
  readonly format: EncryptionFormat | null;
  /** Of its type. Those without a scope must be what a backend reports of itself (see `capabilitiesOf`). */
  readonly extraSpecs: Readonly<Record<string, string | null>>;
  /** It is made from what lies there: on the same host, and if it fits in the same backend. */
  readonly near: { readonly host: HostName; readonly backend: BackendName | null } | null;
};

export type BackendChoice =
  | { readonly chosen: BackendCandidate; readonly reason: null }
  | { readonly chosen: null; readonly reason: string };

/** The backend with most room of those that can do what is asked, or why there is none. */
export function chooseBackend(candidates: readonly BackendCandidate[], demand: VolumeDemand): BackendChoice {
  const reasons: string[] = [];
  const able = candidates.filter((candidate) => {
    const reason = whyNot(candidate, demand);
    if (reason !== null) reasons.push(`${candidate.host}@${candidate.backend.name} ${reason}.`);
    return reason === null;
  });
  const near = able.find(({ backend }) => backend.name === demand.near?.backend);
  const [chosen] = near ? [near] : able.toSorted((a, b) => free(b) - free(a));
  if (chosen) return { chosen, reason: null };
  return { chosen: null, reason: reasons.length > 0 ? reasons.join(' ') : 'No host that is up has a volume backend.' };
}

function whyNot(candidate: BackendCandidate, { sizeGib, format, extraSpecs, near }: VolumeDemand): string | null {
  const { host, backend } = candidate;
  if (near && near.host !== host) return `is on another host than what the volume is made from (${near.host})`;
  const capabilities = capabilitiesOf(backend);
  for (const [key, wanted] of Object.entries(extraSpecs)) {
    const name = key.startsWith('capabilities:') ? key.slice('capabilities:'.length) : key;
    if (name.includes(':') || wanted === null) continue;
    if (capabilities[name] !== wanted) return `has ${name} ${capabilities[name] ?? 'unset'}, not ${wanted}`;
  }
  if (format !== null && !backend.formats.includes(format)) return `cannot do encryption format ${format}`;
  if (free(candidate) < sizeGib) return `has ${free(candidate)} GiB free of the ${sizeGib} asked for`;
  return null;
}

function free({ backend, usedGib }: BackendCandidate): number {
  return backend.capacityGib - usedGib;
}
