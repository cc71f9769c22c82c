import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tell } from '#test/support/disk-lab.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'nightlatch-units-'));
after(() => rmSync(folder, { recursive: true }));

/** The units of a folder with this checkout in the place where they are to be installed. */
function unitsOf(name: string): string[] {
  const from = join(CHECKOUT, 'packaging', name);
  const units = readdirSync(from).filter((file) => /\.(service|socket|mount)$/.test(file));
  return units.map((file) => {
    const path = join(folder, file);
    writeFileSync(path, readFileSync(join(from, file), 'utf8').replaceAll('/opt/nightlatch/', CHECKOUT));
    return path;
  });
}

for (const [name, count] of [
  ['.', 2],
  ['unprivileged', 4],
] as const) {
  test(`systemd accepts the units of packaging/${name}`, () => {
    const units = unitsOf(name);
    assert.equal(units.length, count);
    assert.deepEqual(tell('systemd-analyze', 'verify', '--man=no', ...units), { status: 0, text: '' });
    for (const unit of units) rmSync(unit);
  });
}

test('the unprivileged service can get no privilege, and its helper no more than it is given', () => {
  const unit = (name: string) => readFileSync(join(CHECKOUT, 'packaging/unprivileged', name), 'utf8');
  const service = unit('nightlatch.service');
  for (const line of ['User=nightlatch', 'NoNewPrivileges=yes', 'CapabilityBoundingSet=', 'LimitCORE=0']) {
    assert.ok(service.split('\n').includes(line), line);
  }
  assert.match(unit('nightlatch-helper.socket'), /^SocketGroup=nightlatch\nSocketMode=0660$/m);
  assert.match(unit('nightlatch-helper.service'), /^CapabilityBoundingSet=(CAP_\w+ ?)+$/m);
});
