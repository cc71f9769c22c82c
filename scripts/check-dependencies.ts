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
  backups: ['backups', 'core', 'host/files.ts'],
  operations: ['operations', 'keys', 'placement', 'backups', 'db', 'core', 'host/host-agent.ts'],
  api: [
    'api',
    'operations/server-operations.ts',
    'operations/host-operations.ts',
    'operations/volume-operations.ts',
    'identity',
    'images',
    'db',
    'core',
  ],
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
    'backups',
    'db',
    'core',
    'host',
    'config',
    'observe',
  ],
  'root-helper': [
    'root-helper',
    'core/errors.ts',
    'core/secret.ts',
    'config/load.ts',
    'config/disk-places.ts',
    'host/exec.ts',
    'host/grant.ts',
    'host/helper-protocol.ts',
  ],
  cli: ['cli', 'main', 'keys', 'db', 'core', 'config', 'host'],
};

/**
 * All that the root helper is made of, directly or not. It runs as root for whoever may write to its socket, so it stays
 * small: no network, no database, no file that is not here.
 */
const rootHelper = {
  entry: 'root-helper/main.ts',
  files: [
    ...['root-helper/main.ts', 'root-helper/serve.ts', 'root-helper/socket.ts'],
    ...['config/load.ts', 'config/schema.ts', 'config/disk-places.ts'],
    ...[
      'core/address.ts',
      'core/disk.ts',
      'core/encryption-intent.ts',
      'core/errors.ts',
      'core/ids.ts',
      'core/image-encryption.ts',
      'core/secret.ts',
    ],
    ...['host/exec.ts', 'host/grant.ts', 'host/helper-client.ts', 'host/helper-protocol.ts', 'host/key-pipe.ts'],
    ...['host/privilege.ts', 'host/privileged-shapes.ts'],
  ],
  packages: ['koffi', 'smol-toml', 'zod'],
} as const;

/** Drivers of one port: none may import another. */
const driverFolders = [
  /^host\/storage\/([^/]+)\/.+/,
  /^host\/encryption\/([^/]+)\/.+/,
  /^host\/hypervisor\/([^/]+)\/.+/,
  /^keys\/([^/]+)\/.+/,
];

/**
 * Programs of which a whole room must be absent, wherever it may be imported from: a host can ask for no key, because its
 * agent has no code for it.
 */
const closures: Readonly<Record<string, readonly string[]>> = {
  'cli/host-agent.ts': ['keys', 'db', 'operations', 'api', 'identity', 'images', 'placement'],
};

const IMPORT = /(?:from|import)\s*\(?\s*'([^']+)'/g;

/** A whole statement, so that no other text is taken for one. */
const STATEMENT = /^(?:import|export)[^;'=(]*'([^']+)';/gm;

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
  for (const [entry, absent] of Object.entries(closures)) problems.push(...(await judgeClosure(entry, absent)));
  return [...problems, ...(await checkRootHelper())];
}

async function checkRootHelper(): Promise<string[]> {
  const seen = new Set<string>([rootHelper.entry]);
  const packages = new Set<string>();
  for (const file of seen) {
    // What is imported as a type is gone before the program runs.
    const text = (await readFile(`src/${file}`, 'utf8')).replace(/^import type [^;]*;/gm, '');
    for (const [, specifier = ''] of text.matchAll(STATEMENT)) {
      const target = resolve(file, specifier);
      if (target !== null) seen.add(target);
      else if (!specifier.startsWith('node:')) packages.add(specifier);
    }
  }
  const strangers = [
    ...[...seen].filter((file) => !(rootHelper.files as readonly string[]).includes(file)),
    ...[...packages].filter((name) => !(rootHelper.packages as readonly string[]).includes(name)),
  ];
  return strangers.map((name) => `the root helper would load ${name}: it may have only what is listed for it`);
}

/** Follows every import of a value from `entry` on; a type alone brings no code. */
async function judgeClosure(entry: string, absent: readonly string[]): Promise<string[]> {
  const cameFrom = new Map<string, string>([[entry, '']]);
  const problems: string[] = [];
  for (const file of cameFrom.keys()) {
    if (absent.some((room) => file.startsWith(`${room}/`))) {
      problems.push(`src/${entry} must not load ${file}, which ${cameFrom.get(file)} imports`);
      continue;
    }
    const text = (await readFile(`src/${file}`, 'utf8')).replace(/^import type .*?;$/gms, '');
    for (const [, specifier = ''] of text.matchAll(IMPORT)) {
      const target = resolve(file, specifier);
      if (target !== null && !cameFrom.has(target)) cameFrom.set(target, `src/${file}`);
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
