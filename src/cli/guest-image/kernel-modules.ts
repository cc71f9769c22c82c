import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** A kernel module file and the names of the modules that must be loaded before it. */
export type KernelModule = { readonly name: string; readonly path: string; readonly depends: readonly string[] };

/**
 * Modules in an order in which each can be loaded: the wanted ones and all they depend on, each once.
 *
 * @throws when a module is not among `all`, which then is not the kernel we know.
 */
export function loadOrder(wanted: readonly string[], all: ReadonlyMap<string, KernelModule>): readonly KernelModule[] {
  const order = new Set<KernelModule>();
  const visit = (name: string): void => {
    const module = all.get(name);
    if (!module) throw new Error(`the kernel package has no module ${name}`);
    for (const needed of module.depends) visit(needed);
    order.add(module);
  };
  for (const name of wanted) visit(name);
  return [...order];
}

/**
 * The modules that a module's `.modinfo` section says it depends on: NUL-terminated `key=value` strings, of which
 * `depends` is a list with commas, empty for none. Null: these bytes are no module.
 */
export function readDepends(bytes: Buffer): readonly string[] | null {
  const start = bytes.indexOf('\0depends=');
  if (start < 0) return null;
  const value = start + '\0depends='.length;
  const end = bytes.indexOf(0, value);
  if (end < 0) return null;
  const names = bytes.toString('latin1', value, end);
  return names === '' ? [] : names.split(',').map(moduleName);
}

/** All modules below a folder such as `/lib/modules/6.1.0-1-cloud-amd64/kernel`, by name, but only those in `folders`. */
export async function findModules(
  root: string,
  folders: readonly string[],
): Promise<ReadonlyMap<string, KernelModule>> {
  const found = new Map<string, KernelModule>();
  for (const folder of folders) {
    for (const file of await readdir(join(root, folder))) {
      if (!file.endsWith('.ko')) continue;
      const path = join(root, folder, file);
      const name = moduleName(file.slice(0, -'.ko'.length));
      found.set(name, { name, path, depends: readDepends(await readFile(path)) ?? [] });
    }
  }
  return found;
}

/** A module's one name: the kernel treats `-` and `_` alike. */
function moduleName(text: string): string {
  return text.replaceAll('-', '_');
}
