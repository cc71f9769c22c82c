import type { Database } from '#db/database.ts';
import type { Identity } from '#identity/identity.ts';
import type { ImageStore } from '#images/image-store.ts';
import type { BlockStorageOperations } from '#operations/volume-operations.ts';

/** What the block storage API is built on. */
export type BlockStorageServices = BlockStorageOperations & {
  readonly db: Database;
  readonly identity: Identity;
  readonly images: ImageStore;
  /** The address clients use, when it is not the one they connect to. */
  readonly publicUrl: string | null;
  /** Name of the volume type of volumes that are created without one; see `[DEFAULT] default_volume_type`. */
  readonly defaultVolumeType: string;
  /** Whether a volume that is in use can become an image; see `[DEFAULT] enable_force_upload`. */
  readonly canForceUpload: boolean;
};
