import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type DiskId, type HostName, newId, type ProjectId, type ServerId, type UserId } from '#core/ids.ts';
import { disksOf, insertDisks, placeDisks } from '#db/disks.ts';
import { insertServer } from '#db/servers.ts';
import { startTestDatabase, type TestDatabase } from '#test/support/database.ts';

/** What becomes of a disk's encryption when it is placed: its user's choice, else the host's. */
let database: TestDatabase;
before(async () => {
  database = await startTestDatabase();
});
after(() => database[Symbol.asyncDispose]());

type Choice = { readonly encrypted: boolean | null; readonly encryption: 'luks' | 'luksv2' | null };

async function placed(choice: Choice, undecidedFormat: 'plain' | null) {
  const { db } = database;
  const serverId = newId<ServerId>();
  const whose = { project_id: 'p' as ProjectId, host: null };
  await insertServer(db, {
    ...{ ...whose, id: serverId, user_id: 'u' as UserId, name: 'box', description: null, image_id: null },
    ...{ flavor: '{}', metadata: '{}', user_data: null, config_drive: false, network: 'none', key_name: null },
    ...{ reservation_id: 'r', vm_state: 'building', task_state: null, power_state: 'nostate', fault: null },
    ...{ operation: null, updated_at: new Date() },
  });
  const kind = {
    ordinal: 0,
    size_bytes: 512,
    storage: null,
    image_id: null,
    state: 'absent',
    secret_id: null,
  } as const;
  await insertDisks(db, [
    { ...whose, ...kind, ...choice, id: newId<DiskId>(), owner_id: serverId, role: 'root' },
    { ...whose, ...kind, ...choice, id: newId<DiskId>(), owner_id: serverId, role: 'swap' },
  ]);
  const host = { host: 'testhost' as HostName, storage: 'lvm', defaultFormat: 'luksv2', undecidedFormat } as const;
  await placeDisks(db, serverId, host);
  return (await disksOf(db, serverId)).map(({ encrypted, encryption }) => ({ encrypted, encryption }));
}

describe('a disk that is placed', () => {
  const plain = { encrypted: true, encryption: 'plain' };
  const clear = { encrypted: false, encryption: null };
  for (const [what, choice, byDefault, byLegacySwitch] of [
    ['nobody decided about', { encrypted: null, encryption: null }, clear, plain],
    ['is to be clear', { encrypted: false, encryption: null }, clear, clear],
    [
      'is to be encrypted somehow',
      { encrypted: true, encryption: null },
      { encrypted: true, encryption: 'luksv2' },
      { encrypted: true, encryption: 'luksv2' },
    ],
    [
      'is to be LUKS',
      { encrypted: true, encryption: 'luks' },
      { encrypted: true, encryption: 'luks' },
      { encrypted: true, encryption: 'luks' },
    ],
  ] as const) {
    it(`and that ${what}`, async () => {
      assert.deepEqual(await placed(choice, null), [byDefault, byDefault]);
      assert.deepEqual(await placed(choice, 'plain'), [byLegacySwitch, byLegacySwitch]);
    });
  }
});
