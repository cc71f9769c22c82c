import { readFile } from 'node:fs/promises';
import { parse, TomlError } from 'smol-toml';
import { type Config, configSchema } from '#config/schema.ts';
import { NightlatchError } from '#core/errors.ts';

/** Where `nightlatch` looks when no file is named; it may be absent. */
export const DEFAULT_CONFIG_FILE = '/etc/nightlatch/nightlatch.toml';

/** Reads and checks a TOML configuration file. @throws bad-request, naming every option that is wrong or unknown. */
export async function loadConfig(file: string | null): Promise<Config> {
  return parseConfig(await readConfig(file), file ?? DEFAULT_CONFIG_FILE);
}

/** Checks the text of a configuration file; `name` is for messages. */
export function parseConfig(text: string, name: string): Config {
  const result = configSchema.safeParse(parseToml(text, name));
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const where = issue.path.join('.') || 'the file';
    return issue.code === 'unrecognized_keys'
      ? `${where} has unknown options: ${issue.keys.join(', ')}`
      : `${where}: ${issue.message}`;
  });
  throw refuse(name, problems.join('; '));
}

function parseToml(text: string, name: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof TomlError) throw refuse(name, `line ${error.line}: ${error.message.split('\n')[0]}`);
    throw error;
  }
}

async function readConfig(file: string | null): Promise<string> {
  try {
    return await readFile(file ?? DEFAULT_CONFIG_FILE, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (file === null && code === 'ENOENT') return '';
    throw refuse(file ?? DEFAULT_CONFIG_FILE, `it cannot be read (${code})`);
  }
}

function refuse(name: string, what: string): NightlatchError {
  return new NightlatchError('bad-request', { reason: `Reading the configuration ${name} failed: ${what}.` });
}
