import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** What a test gives to the programs of ours that it starts, and nothing else of its own environment. */
export function programEnvironment(): Record<string, string> {
  const { PATH = '', NODE_COMPILE_CACHE } = process.env;
  return NODE_COMPILE_CACHE === undefined ? { PATH } : { PATH, NODE_COMPILE_CACHE };
}

/**
 * From here on the sources are compiled once, for this process's children and theirs, and kept in the folder: half of
 * what a start of the service takes. What is killed keeps nothing, therefore this loads the service and ends.
 */
export async function compileOnce(folder: string): Promise<void> {
  process.env.NODE_COMPILE_CACHE = folder;
  const args = ['--input-type=module', '--eval', "await import('#cli/serve.ts')"];
  const [code] = await once(spawn(process.execPath, args, { stdio: 'inherit' }), 'exit');
  if (code !== 0) throw new Error(`loading the service ended with ${code}`);
}
