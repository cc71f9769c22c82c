/** Times of one way of doing something, in milliseconds, in the order they were taken. */
export type Times = readonly number[];

/** Two ways of doing the same thing, timed in turns, and what is expected of their ratio. */
export type Comparison = {
  /** Name of the benchmark it belongs to, such as `disk-create`. */
  readonly bench: string;
  readonly ours: { readonly what: string; readonly times: Times };
  readonly other: { readonly what: string; readonly times: Times };
  /** What both contain and neither is measured by: its median is taken off both medians. */
  readonly shared?: { readonly what: string; readonly times: Times };
  /** The ratio of ours to the other is to be at most this; null: it depends on the machine, nothing is expected. */
  readonly target: number | null;
  /** What else was seen while they were taken, a line each. */
  readonly figures?: readonly string[];
};

/** A comparison with what comes out of it. */
export type Verdict = Comparison & {
  readonly oursMs: number;
  readonly otherMs: number;
  readonly ratio: number;
  readonly isMet: boolean;
};

/** The ratio of the two medians, each less the median of what both share. */
export function judge(comparison: Comparison): Verdict {
  const shared = comparison.shared ? median(comparison.shared.times) : 0;
  const oursMs = median(comparison.ours.times) - shared;
  const otherMs = median(comparison.other.times) - shared;
  const ratio = oursMs / otherMs;
  return { ...comparison, oursMs, otherMs, ratio, isMet: comparison.target === null || ratio <= comparison.target };
}

/** The middle one; of an even number the mean of the two. *Throws* for none. */
export function median(times: Times): number {
  const sorted = times.toSorted((a, b) => a - b);
  const [low, high] = [sorted[Math.ceil(sorted.length / 2) - 1], sorted[Math.floor(sorted.length / 2)]];
  if (low === undefined || high === undefined) throw new Error('there is no median of nothing');
  return (low + high) / 2;
}

/** How long `work` takes, in milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/**
 * Times each way `rounds` times, in turns, so that what else the machine does falls on all alike. Every other round
 * goes through them backwards, so that none is always first.
 */
export async function inTurns<Name extends string>(
  rounds: number,
  ways: Readonly<Record<Name, () => Promise<number>>>,
  progress: (line: string) => void,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(ways) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, number[]>;
  for (let round = 1; round <= rounds; round++) {
    for (const name of round % 2 === 0 ? names.toReversed() : names) times[name].push(await ways[name]());
    progress(
      `round ${round} of ${rounds}: ${names.map((name) => `${name} ${milliseconds(times[name].at(-1))}`).join(', ')}`,
    );
  }
  return times;
}

export function milliseconds(ms: number | undefined): string {
  if (ms === undefined) return '–';
  return `${ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
