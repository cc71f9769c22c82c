import { glob, readFile } from 'node:fs/promises';

/**
 * Which room may import which. `core` imports nothing of ours; `api` and `operations` see of a host only the port
 * `HostAgent`; drivers never see each other; only `main` constructs concrete classes.
 */
const allowed: Readonly<Record<string, readonly string[]>> = {
  core: ['core'],
  db: ['db', 'core'],
  keys: ['keys', 'db', 'core'],
  placement: ['placement', 'core'],
  identity: ['identity', 'db', 'core'],
  images: ['images', 'db', 'core', 'host/exec.ts', 'host/files.ts'],
  operations: ['operations', 'keys', 'placement', 'db', 'core', 'host/host-agent.ts'],
  api: ['api', 'operations/server-operations.ts', 'operations/host-operations.ts', 'identity', 'images', 'db', 'core'],
  host: ['host', 'core'],
  config: ['config', 'core'],
  observe: ['observe', 'core'],
  main: [
    'main',
    'api',
    'operations',
    'keys',
    'placement',
    'identity',
    'images',
    'db',
    'core',
    'host',
    'config',
    'observe',
  ],
  cli: ['cli', 'main', 'keys', 'db', 'core', 'config', 'host'],
};

/** Drivers of one port: none may import another. */
const driverFolders = [
  /^host\/storage\/([^/]+)\/.+/,
  /^host\/encryption\/([^/]+)\/.+/,
  /^host\/hypervisor\/([^/]+)\/.+/,
  /^keys\/([^/]+)\/.+/,
];

const IMPORT = /(?:from|import)\s*\(?\s*'([^']+)'/g;

/** Every import of `src/` that the rule forbids, as a line each. */
export async function checkDependencies(): Promise<string[]> {
  const problems: string[] = [];
  for await (const path of glob('src/**/*.ts')) {
    const file = path.slice('src/'.length);
    for (const [, specifier = ''] of (await readFile(path, 'utf8')).matchAll(IMPORT)) {
      const target = resolve(file, specifier);
      if (target !== null) problems.push(...judge(file, target));
    }
  }
  return problems;
}

function judge(file: string, target: string): string[] {
  const room = file.split('/')[0] ?? '';
  const rule = allowed[room];
  if (!rule) return [`src/${file}: the room ${room} is not in the dependency rule (scripts/check-dependencies.ts)`];
  if (!rule.some((entry) => target === entry || target.startsWith(`${entry}/`))) {
    return [`src/${file} imports ${target}: ${room} may import ${rule.join(', ')}`];
  }
  for (const folder of driverFolders) {
    const [from, to] = [folder.exec(file)?.[1], folder.exec(target)?.[1]];
    if (from && to && from !== to) return [`src/${file} imports ${target}: drivers do not import each other`];
  }
  return [];
}

/** Path below `src/` of an import of ours; null for a package. */
function resolve(file: string, specifier: string): string | null {
  if (specifier.startsWith('#')) return specifier.slice(1);
  if (!specifier.startsWith('.')) return null;
  return new URL(specifier, `file:///${file}`).pathname.slice(1);
}
