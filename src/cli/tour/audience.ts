import { stripVTControlCharacters, styleText } from 'node:util';
import { type Audience, type Evidence, INTERRUPTED, type StepName } from '#cli/tour/narrator.ts';
import { print } from '#cli/ui.ts';

/** Number of steps, for the count beside each. */
export const STEP_COUNT = 12;

const INDENT = ' '.repeat(8);
/** The widest name of something that is looked at; what was found starts in the same column in every step. */
const LOOKED_AT_WIDTH = 34;
const LINE_WIDTH = 118;

/** Tells the tour to a person: a line when a step begins, one when it ends, and its evidence in two columns. */
export function tellPerson(): Audience {
  let count = 0;
  return {
    begin(_step, title) {
      count++;
      print('');
      print(`${style('bold', `[${String(count).padStart(2)}/${STEP_COUNT}]`)} ${style('bold', title)}`);
    },
    progress: (line) => print(style('dim', `${INDENT}… ${line}`)),
    done(_step, ms, evidence) {
      for (const line of evidence.flatMap(evidenceLines)) print(line);
      print(`${INDENT}${style('green', 'ok')} ${style('dim', `in ${seconds(ms)}`)}`);
    },
    failed: (_step, ms, reason) => {
      const word = reason === INTERRUPTED ? style('dim', INTERRUPTED) : style('red', 'failed');
      print(`${INDENT}${word} ${style('dim', `after ${seconds(ms)}`)}`);
    },
  };
}

/** Tells the tour to a program: one JSON object a step. The caller prints the last one, the result. */
export function tellProgram(): Audience {
  const tell = (step: StepName, ok: boolean, ms: number, more: Record<string, unknown>) =>
    print(JSON.stringify({ step, ok, ms, ...more }));
  return {
    begin() {},
    progress() {},
    done: (step, ms, evidence) => tell(step, true, ms, { evidence }),
    failed: (step, ms, reason) => tell(step, false, ms, { evidence: [], reason }),
  };
}

/** Evidence for promises as a table: promise, what was looked at, what was found. */
export function evidenceTable(shown: readonly Evidence[]): string[] {
  const rows = shown.flatMap(({ promise, lookedAt, found }) =>
    promise === undefined ? [] : [[promise, lookedAt, found] as const],
  );
  const head = ['promise', 'what was looked at', 'what was found'] as const;
  const width = (column: 0 | 1) => Math.max(...[head, ...rows].map((row) => row[column].length));
  const [first, second] = [width(0), width(1)];
  const left = Math.max(LINE_WIDTH - first - second - 4, 30);
  const lines = rows.flatMap(([promise, lookedAt, found]) =>
    wrap(clean(found), left).map((part, i) =>
      `${(i === 0 ? promise : '').padEnd(first)}  ${(i === 0 ? lookedAt : '').padEnd(second)}  ${part}`.trimEnd(),
    ),
  );
  const rule = '─'.repeat(Math.max(...lines.map((line) => line.length)));
  const header = `${head[0].padEnd(first)}  ${head[1].padEnd(second)}  ${head[2]}`;
  return [style('bold', header), style('dim', rule), ...lines];
}

function evidenceLines({ lookedAt, found }: Evidence): string[] {
  const indent = `${INDENT}${''.padEnd(LOOKED_AT_WIDTH)}  `;
  const name = `${INDENT}${style('dim', lookedAt.padEnd(LOOKED_AT_WIDTH))}  `;
  return wrap(clean(found), LINE_WIDTH - indent.length).map((line, i) => (i === 0 ? name : indent) + line);
}

/** Lines of at most `width` characters, broken between words; a longer word gets a line of its own. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

/** A guest's or a server's words must not reach the terminal as commands. */
function clean(text: string): string {
  return stripVTControlCharacters(text).replace(/[^\S\n]+|[\p{Cc}\p{Cf}]/gu, ' ');
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

export function style(format: 'bold' | 'dim' | 'green' | 'red', text: string): string {
  return styleText(format, text, { stream: process.stdout });
}
