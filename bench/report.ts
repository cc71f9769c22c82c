import { type Comparison, milliseconds, type Verdict } from './comparison.ts';

/** Verdicts as lines for people: a block a comparison, the medians, their ratio, and whether it is what is expected. */
export function renderReport(verdicts: readonly Verdict[]): string {
  const lines = verdicts.flatMap((verdict) => ['', ...renderVerdict(verdict)]);
  const missed = verdicts.filter(({ isMet }) => !isMet).length;
  return [...lines, '', `bench: ${verdicts.length - missed} met, ${missed} missed`].slice(1).join('\n');
}

/** Verdicts for programs. */
export function renderJson(verdicts: readonly Verdict[]): string {
  return JSON.stringify(verdicts, null, 2);
}

function renderVerdict(verdict: Verdict): string[] {
  const { bench, ours, other, shared, oursMs, otherMs, ratio, target, isMet } = verdict;
  const rows = [row(ours, oursMs), row(other, otherMs), ...(shared ? [row(shared, null)] : [])];
  const widths = [0, 1].map((column) => Math.max(...rows.map((cells) => cells[column]?.length ?? 0)));
  const rendered = rows.map(
    ([what = '', ms = '', spread = '']) =>
      `  ${what.padEnd(widths[0] ?? 0)}  ${ms.padStart(widths[1] ?? 0)}  ${spread}`,
  );
  const expected =
    target === null ? 'nothing expected' : `expected at most ${asRatio(target)}: ${isMet ? 'met' : 'MISSED'}`;
  const outcome = `ratio ${asRatio(ratio)}, ${expected}`;
  return [`${bench}: ${outcome}`, ...rendered, ...(verdict.figures ?? []).map((figure) => `  ${figure}`)];
}

function row({ what, times }: Comparison['ours'], medianMs: number | null): string[] {
  const spread = `${times.length} runs, ${milliseconds(Math.min(...times))} to ${milliseconds(Math.max(...times))}`;
  return medianMs === null
    ? [what, '', `${spread} (taken off the times above)`]
    : [what, milliseconds(medianMs), spread];
}

/** A small ratio as a fraction, as in 1/120. What is lost in the noise of what was taken off has none. */
function asRatio(ratio: number): string {
  if (ratio <= 0) return 'too small to measure';
  return ratio < 0.1 ? `1/${Math.round(1 / ratio)}` : ratio.toFixed(2);
}
