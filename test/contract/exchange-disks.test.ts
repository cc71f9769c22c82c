import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { DiskRole, DiskStanding } from '#core/disk.ts';
import { type DiskId, type HostName, newId, type ProjectId, type ServerId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import type { Database } from '#db/database.ts';
import { disksOf, exchangeDisks, insertDisks, nextGeneration, updateDisk } from '#db/disks.ts';
import { hostUse } from '#db/hosts.ts';
import { insertProject } from '#db/projects.ts';
import { insertServer } from '#db/servers.ts';
import { startTestDatabase } from '#test/support/database.ts';

const HOST = 'host-1' as HostName;
const flavor = { id: 'm1', name: 'm1', vcpus: 1, ramMib: 64, rootGib: 1, ephemeralGib: 0, swapMib: 0, extraSpecs: {} };

let db: Database;
let close: AsyncDisposable;
before(async () => {
  const database = await startTestDatabase();
  db = database.db;
  close = database;
});
after(() => close[Symbol.asyncDispose]());

async function addServer(more: object = {}): Promise<ServerId> {
  const projectId = newId<ProjectId>();
  await insertProject(db, { id: projectId, name: projectId });
  const { id } = await insertServer(db, {
    ...{ id: newId<ServerId>(), project_id: projectId, user_id: 'user' as never, name: 'x', metadata: '{}' },
    ...{ flavor: JSON.stringify(flavor), config_drive: false, network: 'none', reservation_id: 'r-1', host: HOST },
    ...{ vm_state: 'active', power_state: 'running', task_state: null, updated_at: new Date(), ...more },
  });
  return id;
}

async function addDisk(serverId: ServerId, role: DiskRole, standing: DiskStanding): Promise<DiskId> {
  const identity = { owner_id: serverId, role, ordinal: 0 };
  const generation = await nextGeneration(db, identity);
  const id = newId<DiskId>();
  const kind = { storage: 'raw', encrypted: false, encryption: null, state: 'formatted', host: HOST } as const;
  const project_id = newId<ProjectId>();
  await insertDisks(db, [{ id, ...identity, project_id, generation, standing, size_bytes: GIB, ...kind }]);
  return id;
}

const standings = async (id: ServerId) =>
  (await disksOf(db, id)).map(({ role, generation, standing }) => `${role} ${generation} ${standing}`);

test('an exchange and the way back leave the disks as they were; what is not wanted is put away', async () => {
  const id = await addServer();
  await addDisk(id, 'root', 'live');
  await addDisk(id, 'swap', 'live');
  await addDisk(id, 'config-drive', 'live');
  await addDisk(id, 'root', 'coming');
  await addDisk(id, 'ephemeral', 'coming');
  const before = await standings(id);
  const large = new Set<DiskRole>(['root', 'ephemeral', 'config-drive']);
  const small = new Set<DiskRole>(['root', 'swap', 'config-drive']);
  const exchange = (to: Parameters<typeof exchangeDisks>[2]) =>
    db.transaction().execute((tx) => exchangeDisks(tx, id, to));
  await exchange({ bringIn: 'coming', putAway: 'kept', wanted: large });
  const after = ['root 0 kept', 'root 1 live', 'ephemeral 0 live', 'swap 0 kept', 'config-drive 0 live'];
  assert.deepEqual(await standings(id), after);
  await exchange({ bringIn: 'kept', putAway: 'coming', wanted: small });
  assert.deepEqual(await standings(id), before);
});

test('a generation is never given twice, and no guest has two disks of a kind', async () => {
  const id = await addServer();
  const first = await addDisk(id, 'root', 'live');
  const second = await addDisk(id, 'root', 'coming');
  await updateDisk(db, second, { state: 'destroyed' });
  await addDisk(id, 'root', 'coming');
  assert.deepEqual(await standings(id), ['root 0 live', 'root 2 coming']);
  await assert.rejects(addDisk(id, 'root', 'live'), /disks_standing/);
  await assert.rejects(updateDisk(db, first, { standing: 'coming' }), /disks_standing/);
});

test('a host counts every disk that is there, and of a resized server the larger flavor', async () => {
  const use = await hostUse(db, HOST);
  const larger = { ...flavor, vcpus: 3, ramMib: 32 };
  const id = await addServer({ old_flavor: JSON.stringify(larger), vm_state: 'resized' });
  await addDisk(id, 'root', 'live');
  await addDisk(id, 'root', 'kept');
  const taken = { vcpus: use.vcpus + 3, memoryMib: use.memoryMib + 64, diskGib: use.diskGib + 2 };
  assert.deepEqual(await hostUse(db, HOST), taken);
  const columns = { flavor: { ...flavor, ramMib: 4096 } };
  const coming = await addServer({ replacement: JSON.stringify({ columns, rebuild: null }) });
  assert.equal((await hostUse(db, HOST)).memoryMib, taken.memoryMib + 4096);
  assert.equal((await hostUse(db, HOST, coming)).memoryMib, taken.memoryMib);
});
