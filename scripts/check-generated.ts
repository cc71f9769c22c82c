import { readFile, writeFile } from 'node:fs/promises';
import { renderConfigReference } from '../src/config/reference.ts';
import { renderErrorReference } from '../src/core/error-reference.ts';

const generated: Readonly<Record<string, () => string>> = {
  'docs/configuration.md': renderConfigReference,
  'docs/errors.md': renderErrorReference,
};

/** Pages made from the sources that are not what the sources make now; with `write`, they are made again. */
export async function checkGenerated(write: boolean): Promise<string[]> {
  const problems: string[] = [];
  for (const [path, render] of Object.entries(generated)) {
    const expected = render();
    if ((await readFile(path, 'utf8').catch(() => '')) === expected) continue;
    if (write) await writeFile(path, expected);
    else problems.push(`${path} is not what its source makes: run npm run check -- --write`);
  }
  return problems;
}
