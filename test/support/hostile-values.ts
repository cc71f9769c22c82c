/** What may stand where something else is expected. JSON has no NaN; `1e999` is how infinity gets into a number. */
const values: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  2 ** 31,
  2 ** 53,
  2 ** 63,
  1e308,
  '',
  ' ',
  'x',
  '-1',
  '9223372036854775808',
  '1e400',
  'a\u0000b',
  'a\ud800b',
  '\u202e\u0007\r\nSet-Cookie: x',
  '../../../etc/passwd',
  "'; drop table servers; --",
  [],
  {},
  [null],
  [[]],
  { x: 1 },
];

/** A megabyte, where a word is expected. */
const large = 'n'.repeat(1024 * 1024);

/**
 * The sample with one thing made wrong, in every way there is: every value replaced by every hostile one, every field
 * left out, an unknown field added to every object, every list made long.
 */
export function* mutations(sample: unknown): Generator<{ readonly what: string; readonly body: unknown }> {
  for (const path of pathsOf(sample)) {
    const where = path.join('.') || 'the body';
    for (const value of [...values, large]) {
      const shown = String(JSON.stringify(value)).slice(0, 40);
      yield { what: `${where} = ${shown}`, body: replaced(sample, path, () => value) };
    }
    const at = valueAt(sample, path);
    if (path.length > 0 && !Array.isArray(valueAt(sample, path.slice(0, -1)))) {
      yield { what: `without ${where}`, body: replaced(sample, path, () => undefined) };
    }
    if (Array.isArray(at)) yield { what: `${where} × 100000`, body: replaced(sample, path, () => longer(at)) };
    else if (typeof at === 'object' && at !== null) {
      for (const name of ['unknown_field', 'constructor', 'toString', '', large]) {
        const shown = name.slice(0, 20);
        yield { what: `${where} with ${shown}`, body: replaced(sample, path, () => ({ ...at, [name]: 1 })) };
      }
      const many = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`key${i}`, 'x']));
      yield { what: `${where} with 2000 fields`, body: replaced(sample, path, () => ({ ...at, ...many })) };
    }
  }
}

type Path = readonly (string | number)[];

function* pathsOf(value: unknown, path: Path = []): Generator<Path> {
  yield path;
  if (Array.isArray(value)) for (const [i, item] of value.entries()) yield* pathsOf(item, [...path, i]);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) yield* pathsOf(item, [...path, key]);
  }
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], value);
}

function replaced(value: unknown, path: Path, make: () => unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return make();
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string | number, unknown>;
  copy[key] = replaced(copy[key], rest, make);
  return copy;
}

function longer(list: readonly unknown[]): unknown[] {
  return Array.from({ length: 100_000 }, (_, i) => list[i % Math.max(1, list.length)] ?? 'x');
}

/** Bodies that are no JSON, or none that any request takes. */
export const brokenBodies: Readonly<Record<string, Buffer>> = {
  'half an object': Buffer.from('{"a":'),
  NaN: Buffer.from('{"server":NaN}'),
  'two values': Buffer.from('{}{}'),
  'no UTF-8': Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
  'a string that is no UTF-8': Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]),
  'UTF-16': Buffer.from('\ufeff{"a":1}', 'utf16le'),
  zeros: Buffer.alloc(1000),
  '200000 open brackets': Buffer.from('['.repeat(200_000)),
  '100000 nested lists': Buffer.from('['.repeat(100_000) + ']'.repeat(100_000)),
  '50000 nested objects': Buffer.from(`${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`),
  'a prototype': Buffer.from('{"__proto__":{"isAdmin":true}}'),
  'a constructor': Buffer.from('{"constructor":{"prototype":{"isAdmin":true}}}'),
  'nothing but null': Buffer.from('null'),
  'a list': Buffer.from('[]'),
  'a number': Buffer.from('9223372036854775808'),
  'a word': Buffer.from('"x"'),
  'an empty object': Buffer.from('{}'),
  'more than is read': Buffer.concat([Buffer.from('{"a":"'), Buffer.alloc(5 * 1024 * 1024, 0x61), Buffer.from('"}')]),
};

/** What may stand in a path, already encoded where it has to be. */
export const hostileSegments: readonly string[] = [
  '%00',
  '%ff',
  '%zz',
  '%',
  '..',
  '%2e%2e%2f%2e%2e%2fetc%2fpasswd',
  'x%00y',
  'a'.repeat(513),
  'a'.repeat(6000),
  '%F0%9F%92%A9',
  '%ED%A0%80',
  "'%20or%201=1--",
  '-1',
  '9223372036854775808',
  'null',
  '__proto__',
  'constructor',
  '%0d%0aset-cookie:x',
  '00000000-0000-0000-0000-000000000000',
  '00000000-0000-4000-8000-00000000000G',
];

/** What may stand in a query. */
export const hostileQueries: readonly string[] = [
  '',
  'x',
  '-1',
  '0',
  '1.5',
  'NaN',
  '9223372036854775808',
  '%00',
  '%ff',
  '%ED%A0%80',
  '(',
  '[a',
  '(a+)%2B$',
  '%5C',
  "'",
  '%25',
  '2026-99-99T99:99:99Z',
  '275760-09-13T00:00:01Z',
  'in:',
  'gt:x',
  '__proto__',
  'a'.repeat(4000),
];

/** Names a list may be filtered, sorted and paged by, in any of the services. */
export const queryNames: readonly string[] = [
  ...['limit', 'marker', 'sort', 'sort_key', 'sort_dir', 'page_size', 'offset', 'nocatalog', 'detailed', 'token'],
  ...['name', 'status', 'image', 'flavor', 'host', 'ip', 'ip6', 'user_id', 'project_id', 'tenant_id', 'all_tenants'],
  ...['changes-since', 'changes-before', 'reservation_id', 'tags', 'tags-any', 'not-tags', 'not-tags-any', 'locked'],
  ...[
    'deleted',
    'vm_state',
    'task_state',
    'power_state',
    'launched_at',
    'created_at',
    'updated_at',
    'uuid',
    'key_name',
  ],
  ...['config_drive', 'availability_zone', 'description', 'locked_by', 'progress', 'hostname', 'node', 'launch_index'],
  ...['minDisk', 'minRam', 'is_public', 'visibility', 'owner', 'member_status', 'size_min', 'size_max', 'protected'],
  ...['os_hidden', 'tag', 'id', 'disk_format', 'container_format', 'checksum', 'min_ram', 'min_disk', 'custom'],
  ...[
    'user.id',
    'scope.project.id',
    'role.id',
    'include_names',
    'domain_id',
    'enabled',
    'parent_id',
    'hypervisor_hostname',
  ],
  ...['__proto__', 'constructor', 'hasOwnProperty'],
];
