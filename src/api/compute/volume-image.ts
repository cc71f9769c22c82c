import type { ActionCall } from '#api/compute/actions.ts';
import { withinQuota } from '#api/compute/boot-volumes.ts';
import { type ImageId, newId, type SnapshotId } from '#core/ids.ts';
import { checkServerAction } from '#core/server.ts';
import { insertImageWithoutData } from '#db/images.ts';
import { type Attachment, attachmentsToServer } from '#db/volume-attachments.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { findVolumeType } from '#db/volume-types.ts';
import { findVolume, type Volume } from '#db/volumes.ts';
import type { ImageRequest } from '#operations/server-operations.ts';

/**
 * Makes snapshots of the volumes of a server that boots from one, and an image that names them in place of data: a server
 * made from it gets volumes made from them. See Nova's `snapshot_volume_backed`. A snapshot that was begun stays when a later
 * one is refused.
 *
 * *Throws* server-state (409); volume-state (400); refused (403) beyond the quota.
 */
export async function createVolumeImage(call: ActionCall, wanted: ImageRequest): Promise<ImageId> {
  const { server, services } = call;
  checkServerAction('create-image', { id: server.id, vmState: server.vm_state, taskState: server.task_state });
  const mapping: object[] = [];
  let root: Volume | null = null;
  for (const attachment of await attachmentsToServer(services.db, server.id)) {
    const volume = await findVolume(services.db, attachment.volume_id);
    if (!volume || attachment.status !== 'attached') continue;
    if (attachment.boot_index === 0) root = volume;
    mapping.push(deviceOf(attachment, volume, await snapshot(call, wanted.name, volume)));
  }
  const id = newId<ImageId>();
  await insertImageWithoutData(services.db, {
    id,
    projectId: server.project_id,
    name: wanted.name,
    visibility: 'private',
    diskFormat: 'raw',
    containerFormat: 'bare',
    minDiskGib: Number(root?.image_metadata?.min_disk ?? 0),
    minRamMib: Number(root?.image_metadata?.min_ram ?? 0),
    properties: {
      ...wanted.properties,
      block_device_mapping: JSON.stringify(mapping),
      bdm_v2: 'True',
      root_device_name: '/dev/vda',
    },
    tags: [],
    protected: false,
    hidden: false,
  });
  return id;
}

async function snapshot({ services, context }: ActionCall, imageName: string, volume: Volume): Promise<SnapshotId> {
  const { db, snapshots } = services;
  const type = volume.volume_type_id === null ? null : await findVolumeType(db, volume.volume_type_id, null);
  const more = { snapshots: 1, gigabytes: volume.size_gib };
  const quota = { kind: 'snapshot', more, volumeType: type?.name ?? null } as const;
  const name = `snapshot for ${imageName}`.slice(0, 255);
  const admit = withinQuota((tx) => checkQuota(tx, volume.project_id, quota));
  return (await snapshots.create(volume.id, { name, description: '', metadata: {}, force: true }, context, admit)).id;
}

function deviceOf({ boot_index, delete_on_termination }: Attachment, { size_gib }: Volume, id: SnapshotId): object {
  return {
    source_type: 'snapshot',
    destination_type: 'volume',
    snapshot_id: id,
    boot_index,
    volume_size: size_gib,
    delete_on_termination,
  };
}
