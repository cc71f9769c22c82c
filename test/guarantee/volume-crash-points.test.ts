import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import type { OperationContext } from '#operations/context.ts';
import { backupOperations } from '#operations/durable-backup-operations.ts';
import { contentOperations } from '#operations/durable-content-operations.ts';
import { headerOperations } from '#operations/durable-header-operations.ts';
import { migrationOperations } from '#operations/durable-migration-operations.ts';
import { snapshotOperations } from '#operations/durable-snapshot-operations.ts';
import { volumeOperations } from '#operations/durable-volume-operations.ts';
import { inClear } from '#test/support/encrypted-medium.ts';
import { findStrays } from '#test/support/strays.ts';
import { hasHeaderUnderTest } from '#test/support/volume-backends.ts';
import { type Kind, PATTERN_BYTES, VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/*
 * "Crash anywhere", of volumes: the process is killed at every crash point of every operation and started again. The
 * operation has then finished, nothing is left over, and every disk opens with the secret that its row names and holds what
 * it should; a backup, once it is restored.
 */

/** What is written to `data` before all else, and afterwards by some. */
const [FIRST, SECOND] = [0x4d, 0x5a];

/** The names of what is there before the operation; the volume is called `data`. */
type Case = {
  /** Its volume type: `small` takes no more room than what was written, and the time for that. */
  readonly type?: 'secret' | 'small' | 'anywhere';
  readonly prepare?: (lab: VolumesAndServers, volume: string) => Promise<void>;
  readonly request: (lab: VolumesAndServers, volume: string) => Promise<unknown>;
  /** What there is then, by kind and name, and its status; `gone`: it is not. */
  readonly ends: readonly (readonly [Kind, string, string])[];
  /** Images there are then, by name, and their status. */
  readonly images?: readonly (readonly [string, string])[];
  /** What all of them hold then; null: not looked at. When absent, `FIRST`. */
  readonly holds?: number | null;
  readonly inner: readonly InnerCrashPoint[];
  /** Left out at the covering depth: its way is near another's. */
  readonly isVariant?: boolean;
};

const action = (body: object) => (lab: VolumesAndServers, id: string) =>
  lab.must('POST', `/volumes/${id}/action`, body);
const create = (body: object) => (lab: VolumesAndServers) =>
  lab.must('POST', '/volumes', { volume: { name: 'new', size: 1, volume_type: 'secret', ...body } });
const idOf = async (lab: VolumesAndServers, kind: Kind, name: string) => {
  const id = await lab.find(kind, name);
  assert.ok(id, `${kind} ${name} was lost`);
  return id;
};
const write = async (lab: VolumesAndServers, volume: string, byte: number) =>
  lab.fill(await lab.fileOf(volume), (await lab.secretOf(volume)) as never, byte);
const made: InnerCrashPoint[] = [
  'agent.create-disk.allocated',
  'host.header-backups.kept',
  'agent.create-disk.formatted',
  'steps.create-volume-disk.made',
];
const rekeyed: InnerCrashPoint[] = [
  'keys.create-next-key.stored',
  'encryptor.rekey.new-written',
  'encryptor.rekey.added',
  'host.header-backups.kept',
  'encryptor.rekey.old-overwritten',
  'encryptor.rekey.removed',
  'steps.rekey.changed',
  'steps.rekey.named',
  'steps.rekey.headers-forgotten',
  'keys.destroy-key.destroyed',
];

const cases: Readonly<Record<string, Case>> = {
  'create-volume': {
    request: create({}),
    ends: [['volume', 'new', 'available']],
    holds: null,
    inner: ['operations.recorded', 'keys.create-key.stored', 'keys.lend.leased', ...made],
  },
  'create-volume of a volume': {
    request: (lab, source_volid) => create({ source_volid })(lab),
    ends: [
      ['volume', 'new', 'available'],
      ['volume', 'data', 'available'],
    ],
    inner: [
      'encryptor.rekey.added',
      'host.header-backups.kept',
      'encryptor.rekey.removed',
      'steps.create-volume-disk.made',
    ],
  },
  'create-volume of a snapshot': {
    prepare: async (lab, volume) => {
      await lab.addSnapshot(volume, { name: 'then' });
      await write(lab, volume, SECOND);
    },
    request: async (lab) => create({ snapshot_id: await idOf(lab, 'snapshot', 'then'), size: 2 })(lab),
    ends: [
      ['volume', 'new', 'available'],
      ['snapshot', 'then', 'available'],
    ],
    inner: ['encryptor.rekey.added', 'encryptor.rekey.removed', 'steps.create-volume-disk.made'],
    isVariant: true,
  },
  'create-volume of a backup': {
    type: 'small',
    prepare: async (lab, volume) => {
      await lab.addBackup(volume, { name: 'safe' });
      await write(lab, volume, SECOND);
    },
    request: async (lab) => create({ backup_id: await idOf(lab, 'backup', 'safe'), volume_type: 'small' })(lab),
    ends: [
      ['volume', 'new', 'available'],
      ['backup', 'safe', 'available'],
    ],
    inner: ['encryptor.rekey.added', 'encryptor.rekey.removed', 'steps.create-volume-disk.made'],
    isVariant: true,
  },
  'create-volume of an image': {
    request: async (lab) => {
      const file = join(lab.servers.service.directory, 'pattern');
      await writeFile(file, Buffer.alloc(PATTERN_BYTES, FIRST));
      return await create({ imageRef: await lab.servers.cloud.uploadImage('pattern', file, 'raw') })(lab);
    },
    ends: [['volume', 'new', 'available']],
    images: [['pattern', 'active']],
    inner: made,
    isVariant: true,
  },
  'create-snapshot': {
    request: (lab, volume_id) => lab.must('POST', '/snapshots', { snapshot: { name: 'then', volume_id } }),
    ends: [
      ['snapshot', 'then', 'available'],
      ['volume', 'data', 'available'],
    ],
    inner: ['steps.create-snapshot.copied'],
  },
  'delete-snapshot': {
    prepare: async (lab, volume) => void (await lab.addSnapshot(volume, { name: 'then' })),
    request: async (lab) => lab.must('DELETE', `/snapshots/${await idOf(lab, 'snapshot', 'then')}`),
    ends: [
      ['snapshot', 'then', 'gone'],
      ['volume', 'data', 'available'],
    ],
    inner: ['agent.destroy-disk.header-destroyed', 'steps.destroy-volume-disk.removed', 'keys.destroy-key.destroyed'],
  },
  'extend-volume': {
    request: action({ 'os-extend': { new_size: 2 } }),
    ends: [['volume', 'data', 'available']],
    inner: ['steps.extend-volume.grown'],
  },
  'rekey-volume': {
    request: action({ 'nightlatch:rekey': null }),
    ends: [['volume', 'data', 'available']],
    inner: rekeyed,
  },
  'accept-transfer': {
    prepare: async (lab, volume) => void (await lab.addSnapshot(volume, { name: 'then' })),
    request: async (lab, volume_id) => {
      const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id } });
      await lab.must('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
    },
    ends: [
      ['volume', 'data', 'available'],
      ['snapshot', 'then', 'available'],
    ],
    inner: ['steps.rekey.changed', 'steps.rekey.headers-forgotten', 'steps.rekey.named'],
  },
  'create-backup': {
    type: 'small',
    request: (lab, volume_id) => lab.must('POST', '/backups', { backup: { name: 'safe', volume_id } }),
    ends: [
      ['backup', 'safe', 'available'],
      ['volume', 'data', 'available'],
    ],
    inner: ['steps.create-backup.stored', 'steps.destroy-volume-disk.removed'],
  },
  'create-backup incremental': {
    type: 'small',
    prepare: async (lab, volume) => {
      await lab.addBackup(volume, { name: 'base' });
      await write(lab, volume, SECOND);
    },
    request: (lab, volume_id) =>
      lab.must('POST', '/backups', { backup: { name: 'safe', volume_id, incremental: true } }),
    ends: [
      ['backup', 'safe', 'available'],
      ['volume', 'data', 'available'],
    ],
    holds: SECOND,
    inner: ['steps.create-backup.stored'],
    isVariant: true,
  },
  'restore-backup': {
    type: 'small',
    prepare: async (lab, volume) => {
      await lab.addBackup(volume, { name: 'safe' });
      await write(lab, volume, SECOND);
    },
    request: async (lab, volume_id) =>
      lab.must('POST', `/backups/${await idOf(lab, 'backup', 'safe')}/restore`, { restore: { volume_id } }),
    ends: [
      ['backup', 'safe', 'available'],
      ['volume', 'data', 'available'],
    ],
    inner: ['steps.replace-content.filled', 'steps.replace-content.exchanged', 'steps.destroy-volume-disk.removed'],
  },
  'delete-backup': {
    type: 'small',
    prepare: async (lab, volume) => void (await lab.addBackup(volume, { name: 'safe' })),
    request: async (lab) => lab.must('DELETE', `/backups/${await idOf(lab, 'backup', 'safe')}`),
    ends: [
      ['backup', 'safe', 'gone'],
      ['volume', 'data', 'available'],
    ],
    inner: ['steps.delete-backup.removed', 'keys.destroy-key.destroyed'],
  },
  'upload-volume': {
    type: 'small',
    request: action({ 'os-volume_upload_image': { image_name: 'made', disk_format: 'qcow2' } }),
    ends: [['volume', 'data', 'available']],
    images: [['made', 'active']],
    inner: [
      'steps.upload-volume.copied',
      'steps.destroy-volume-disk.removed',
      'images.upload.saved',
      'steps.upload-volume.handed-over',
    ],
  },
  'revert-volume': {
    prepare: async (lab, volume) => {
      await lab.addSnapshot(volume, { name: 'then' });
      await write(lab, volume, SECOND);
    },
    request: async (lab, volume) =>
      action({ revert: { snapshot_id: await idOf(lab, 'snapshot', 'then') } })(lab, volume),
    ends: [
      ['volume', 'data', 'available'],
      ['snapshot', 'then', 'available'],
    ],
    inner: ['steps.replace-content.filled', 'steps.destroy-volume-disk.removed', 'steps.replace-content.exchanged'],
  },
  'reimage-volume': {
    prepare: async (lab) => void (await lab.servers.addBootImage()),
    request: async (lab, volume) => {
      const [{ id }] = (await lab.servers.cloud.expect('image', 'GET', '/v2/images')).images;
      return await action({ 'os-reimage': { image_id: id } })(lab, volume);
    },
    ends: [['volume', 'data', 'available']],
    holds: null,
    inner: ['steps.replace-content.exchanged', 'steps.destroy-volume-disk.removed', 'steps.replace-content.filled'],
  },
  'reencrypt-volume': {
    type: 'small',
    request: action({ 'nightlatch:rekey': { volume_key: true } }),
    ends: [['volume', 'data', 'available']],
    inner: ['agent.create-disk.formatted', 'steps.destroy-volume-disk.removed', 'steps.move-volume.copied'],
  },
  'migrate-volume': {
    type: 'anywhere',
    request: async (lab, volume) => {
      const { volume: is } = await lab.must('GET', `/volumes/${volume}`);
      const from: string = is['os-vol-host-attr:host'];
      const host = from.endsWith('#files') ? from.replaceAll('files', 'small') : from.replaceAll('small', 'files');
      return await action({ 'os-migrate_volume': { host, lock_volume: true } })(lab, volume);
    },
    ends: [['volume', 'data', 'available']],
    inner: ['steps.destroy-volume-disk.removed', 'steps.move-volume.copied'],
  },
  'retype-volume': {
    request: action({ 'os-retype': { new_type: 'small', migration_policy: 'on-demand' } }),
    ends: [['volume', 'data', 'available']],
    inner: ['steps.destroy-volume-disk.removed', 'steps.move-volume.copied'],
  },
  'restore-header': {
    prepare: async (lab, volume) => {
      const { encryption: _, ...medium } = await lab.fileOf(volume);
      inClear(null, medium, `write -P 0 0 ${LUKS1_HEADER_BYTES}`);
    },
    request: action({ 'nightlatch:restore_header': {} }),
    ends: [['volume', 'data', 'available']],
    inner: ['keys.lend.leased', 'steps.restore-header.restored', 'encryptor.restore-header.part-written'],
  },
  'delete-volume': {
    request: (lab, volume) => lab.must('DELETE', `/volumes/${volume}`),
    ends: [['volume', 'data', 'gone']],
    inner: [
      'agent.destroy-disk.backups-destroyed',
      'agent.destroy-disk.header-destroyed',
      'steps.destroy-volume-disk.removed',
      'keys.destroy-key.destroyed',
    ],
  },
};

/** What can only be done to a volume that has a header. */
const ofHeaders = new Set(['rekey-volume', 'accept-transfer', 'restore-header']);
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** Two for each step, and those inside steps; the covering depth takes the last inner one. */
function pointsOf(name: string, inner: readonly string[]): string[] {
  const context = {} as OperationContext;
  const all = [
    ...volumeOperations(context),
    ...snapshotOperations(context),
    ...backupOperations(context),
    ...contentOperations(context),
    ...migrationOperations(context),
    ...headerOperations(context),
  ];
  const operation = all.find((each) => each.name === name.split(' ')[0]);
  assert.ok(operation, `there is no operation ${name}`);
  if (!isWhole) return inner.slice(-1);
  return [
    ...operation.steps.flatMap((step) => [
      `${operation.name}.${step.name}.before`,
      `${operation.name}.${step.name}.after`,
    ]),
    ...inner,
  ];
}

describe('a crash at any point of what is done to volumes', { timeout: 21_600_000 }, () => {
  let lab: VolumesAndServers;
  before(async () => {
    lab = await VolumesAndServers.open({ backends: { files: 'raw', small: 'qcow2' } });
    await lab.addEncryptedType('secret', { volume_backend_name: 'files' });
    await lab.addEncryptedType('small', { volume_backend_name: 'small' });
    await lab.addEncryptedType('anywhere');
  });
  after(() => lab[Symbol.asyncDispose]());

  for (const [name, one] of Object.entries(cases)) {
    const { type = 'secret', prepare, request, ends, images = [], holds = FIRST, inner } = one;
    if ((one.isVariant && !isWhole) || (!hasHeaderUnderTest && ofHeaders.has(name))) continue;
    for (const point of pointsOf(name, inner)) {
      test(`${name}, killed at ${point}: it ends as asked, with nothing left over`, async () => {
        const volume = await lab.addVolume({ name: 'data', volume_type: type });
        await write(lab, volume, FIRST);
        await prepare?.(lab, volume);
        await lab.crashAt(point, () => request(lab, volume));
        for (const [kind, called, status] of ends) {
          const id = await lab.find(kind, called);
          if (status === 'gone' && id === null) continue;
          assert.ok(id, `${kind} ${called} was lost`);
          await lab.reach(kind, id, status);
        }
        await lab.settled();
        assert.deepEqual(await findStrays(lab.servers.service), []);
        for (const [kind, called, status] of ends) {
          if (status === 'gone') continue;
          const found = await idOf(lab, kind, called);
          const id = kind === 'backup' ? await restored(lab, found) : found;
          const [secret, file] = [(await lab.secretOf(id)) as never, await lab.fileOf(id)];
          // Every key opens what has no header.
          if (hasHeaderUnderTest) assert.equal(await lab.opens(secret, file), true, `${called} opens`);
          if (holds !== null)
            assert.equal(await lab.holds(file, secret, holds), true, `${called} holds what it should`);
        }
        for (const [called, status] of images) {
          const found = (await lab.servers.cloud.expect('image', 'GET', `/v2/images?name=${called}`)).images;
          assert.deepEqual(
            found.map((image: { status: string }) => image.status),
            [status],
            `image ${called}`,
          );
        }
        await clear(lab);
        assert.deepEqual(await findStrays(lab.servers.service), []);
        assert.equal(await lab.countSecrets(), 0);
      });
    }
  }
});

/** A new volume of a backup. */
async function restored(lab: VolumesAndServers, backup: string): Promise<string> {
  const { restore } = await lab.must('POST', `/backups/${backup}/restore`, { restore: { name: 'restored' } });
  await lab.reach('volume', restore.volume_id, 'available');
  return restore.volume_id;
}

async function clear(lab: VolumesAndServers): Promise<void> {
  const { cloud } = lab.servers;
  for (const { id } of (await cloud.expect('image', 'GET', '/v2/images')).images) {
    await cloud.expect('image', 'DELETE', `/v2/images/${id}`);
  }
  for (const kind of ['backup', 'snapshot', 'volume'] as const) {
    for (const { id } of (await lab.must('GET', `/${kind}s`))[`${kind}s`]) await lab.delete(kind, id);
  }
}
