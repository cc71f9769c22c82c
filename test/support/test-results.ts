import assert from 'node:assert/strict';

/** How one test of a run elsewhere went. `name` includes the names of the suites round it. */
export type TestResult = {
  readonly file: string;
  readonly name: string;
  readonly skipped: boolean;
  /** Null: it passed. */
  readonly error: string | null;
};

/** A line each, for what prints nothing else. Any text that is not such a line is ignored by `parseTestResults`. */
export function formatTestResult(result: TestResult): string {
  return `${PREFIX}${JSON.stringify(result)}\n`;
}

/** The results in what a run printed. */
export function parseTestResults(text: string): TestResult[] {
  const lines = text.split('\n').filter((line) => line.startsWith(PREFIX));
  return lines.map((line) => JSON.parse(line.slice(PREFIX.length)) as TestResult);
}

const PREFIX = 'nightlatch-test ';

/** Fails as that test did. */
export function judge({ skipped, error }: TestResult): void {
  assert.ok(!skipped, 'it was skipped');
  if (error !== null) assert.fail(error);
}
