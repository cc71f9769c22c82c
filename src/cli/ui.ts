import { stripVTControlCharacters, styleText } from 'node:util';
import { NightlatchError } from '#core/errors.ts';

/*
 * How every command speaks:
 * - results go to standard output, everything else to standard error;
 * - a failure is one `error:` line, then `hint:` lines when something can be done about it;
 * - no colour unless a person is looking; `NO_COLOR` is honoured;
 * - tables by default, `-f json` for programs, `-f value` for shell scripts, as `openstack` has it;
 * - long work prints a line a step, never a bar that moves.
 */

export const outputFormats = ['table', 'json', 'value'] as const;
export type OutputFormat = (typeof outputFormats)[number];
export type Row = Readonly<Record<string, string | number | boolean | null>>;

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function fail(message: string, hints: readonly string[] = []): void {
  say(`${paint('red', 'error:')} ${message}`);
  for (const hint of hints) say(`${paint('yellow', 'hint:')} ${hint}`);
}

/** Says what went wrong; a failure from the catalogue in its own words, a bug with its stack. */
export function failWith(error: unknown): void {
  if (error instanceof NightlatchError) fail(error.message);
  else
    fail(error instanceof Error ? (error.stack ?? error.message) : String(error), ['This is a bug. Please report it.']);
}

/** Prints rows of the same columns, or that there are none. */
export function printRows(rows: readonly Row[], columns: readonly string[], format: OutputFormat): void {
  if (format === 'json') print(JSON.stringify(rows, null, 2));
  else if (format === 'value') for (const row of rows) print(columns.map((column) => cell(row[column])).join(' '));
  else printTable(rows, columns);
}

function printTable(rows: readonly Row[], columns: readonly string[]): void {
  const lines = [columns, ...rows.map((row) => columns.map((column) => cell(row[column])))];
  const widths = columns.map((_, i) => Math.max(...lines.map((line) => (line[i] ?? '').length)));
  const rule = `+${widths.map((width) => '-'.repeat(width + 2)).join('+')}+`;
  const render = (line: readonly string[]) => `| ${line.map((text, i) => text.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  print(rule);
  print(render(columns));
  print(rule);
  for (const line of lines.slice(1)) print(render(line));
  if (rows.length > 0) print(rule);
}

/** Names come from tenants: a control character in one must not reach the operator's terminal. */
function cell(value: Row[string] | undefined): string {
  const text = stripVTControlCharacters(String(value ?? ''));
  return text.replace(/[\p{Cc}\p{Cf}]/gu, '?');
}

export function paint(colour: 'red' | 'yellow' | 'green' | 'dim', text: string): string {
  return styleText(colour, text, { stream: process.stderr });
}
