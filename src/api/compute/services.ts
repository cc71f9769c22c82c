import type { Consoles } from '#api/compute/consoles.ts';
import type { Database } from '#db/database.ts';
import type { Identity } from '#identity/identity.ts';
import type { ImageStore } from '#images/image-store.ts';
import type { ServerOperations } from '#operations/server-operations.ts';
import type { BlockStorageOperations } from '#operations/volume-operations.ts';

/** What the compute API is built on. */
export type ComputeDependencies = BlockStorageOperations & {
  readonly db: Database;
  readonly identity: Identity;
  readonly images: ImageStore;
  readonly operations: ServerOperations;
  /** Name of the volume type of volumes that are created without one. */
  readonly defaultVolumeType: string;
  /** The address clients use, when it is not the one they connect to. */
  readonly publicUrl: string | null;
};

/** What its routes work with. */
export type ComputeServices = ComputeDependencies & { readonly consoles: Consoles };
