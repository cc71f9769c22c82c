import type { FileFormat } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, type ImageId, newId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { encryptionProperties, withoutEncryption } from '#core/image-encryption.ts';
import { GIB } from '#core/sizes.ts';
import type { Queryable } from '#db/database.ts';
import { type DiskRow, disksOf, insertDisks } from '#db/disks.ts';
import { findImage, insertImage } from '#db/images.ts';
import type { Server } from '#db/servers.ts';
import type { ImageRequest } from '#operations/server-operations.ts';

/** How the data of a snapshot lies: in a file that is as long as what was written, whatever the server's disks are. */
const FORMAT: FileFormat = 'qcow2';
/** Nova's default of `[DEFAULT] non_inheritable_image_properties`, as far as such properties exist here. */
export const NOT_INHERITED: ReadonlySet<string> = new Set(['cache_in_nova', 'bittorrent', 'cinder_encryption_key_id']);

/**
 * Writes the rows of an image of the server's root disk, still without data, and of the disk that is to become its data.
 * Both belong to the server's project, whoever asks: the image of a project's disk, and its key, stay with the project.
 */
export async function planImage(tx: Queryable, server: Server, imageId: ImageId, request: ImageRequest): Promise<void> {
  const root = (await disksOf(tx, server.id)).find(({ role, standing }) => role === 'root' && standing === 'live');
  if (!root) {
    const reason = `An image of server ${server.id} was not made: it starts from a volume. Make a snapshot of that instead.`;
    throw new NightlatchError('not-implemented', { reason });
  }
  const isEncrypted = root.encrypted === true && request.encryption === 'new';
  const base = server.image_id === null ? null : await findImage(tx, server.image_id);
  await insertImage(tx, {
    id: imageId,
    projectId: server.project_id,
    name: request.name,
    visibility: 'private',
    diskFormat: FORMAT,
    containerFormat: 'bare',
    minDiskGib: Math.max(base?.minDiskGib ?? 0, server.flavor.rootGib || Math.ceil(root.size_bytes / GIB)),
    minRamMib: base?.minRamMib ?? 0,
    properties: {
      ...inherited(base),
      ...request.properties,
      ...snapshotProperties(server),
      ...(isEncrypted ? encryptionProperties(root.size_bytes) : {}),
    },
    tags: [],
    protected: false,
    hidden: false,
  });
  await insertDisks(tx, [snapshotDisk(server, root, imageId, isEncrypted)]);
}

function snapshotDisk(server: Server, root: DiskRow, imageId: ImageId, isEncrypted: boolean) {
  return {
    id: newId<DiskId>(),
    owner_id: server.id,
    project_id: server.project_id,
    role: 'snapshot',
    ordinal: 0,
    size_bytes: root.size_bytes,
    storage: FORMAT,
    encrypted: isEncrypted,
    encryption: isEncrypted ? 'luks' : null,
    image_id: imageId,
    host: server.host,
    state: 'absent',
    secret_id: null,
  } as const;
}

/** What a server's image says of the image that the server was made from. */
function inherited(base: Image | null): Record<string, string> {
  const kept = Object.entries(withoutEncryption(base?.properties ?? {})).filter(([name]) => !NOT_INHERITED.has(name));
  return Object.fromEntries(kept);
}

/** See Nova's `snapshot_instance` and the libvirt driver's `_create_snapshot_metadata`. */
function snapshotProperties(server: Server): Record<string, string> {
  return {
    image_type: 'snapshot',
    image_location: 'snapshot',
    image_state: 'available',
    instance_uuid: server.id,
    user_id: server.user_id,
    owner_id: server.project_id,
    ...(server.image_id === null ? {} : { base_image_ref: server.image_id }),
  };
}
