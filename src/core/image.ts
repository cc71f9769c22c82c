import type { ImageId, ProjectId } from '#core/ids.ts';

/** Formats an image may be uploaded in. An ISO 9660 image is a raw disk to a server. */
export const diskFormats = ['raw', 'qcow2', 'iso'] as const;
export type DiskFormat = (typeof diskFormats)[number];
export const containerFormats = ['bare'] as const;
export const imageVisibilities = ['private', 'shared', 'community', 'public'] as const;
export type ImageVisibility = (typeof imageVisibilities)[number];

/** One image as every service knows it. */
export type Image = {
  readonly id: ImageId;
  readonly projectId: ProjectId;
  readonly name: string | null;
  /** Only an `active` image has bytes, and a `deactivated` one, of which nothing new is made. */
  readonly status: 'queued' | 'saving' | 'active' | 'deactivated' | 'killed' | 'deleted';
  readonly visibility: ImageVisibility;
  readonly diskFormat: DiskFormat | null;
  readonly containerFormat: string | null;
  readonly minDiskGib: number;
  readonly minRamMib: number;
  /** Bytes of the stored file; null while there is none. */
  readonly sizeBytes: number | null;
  /** Bytes a disk made from it needs; null while there is no file. */
  readonly virtualSizeBytes: number | null;
  readonly md5: string | null;
  readonly sha512: string | null;
  /** Custom properties, such as `hw_ephemeral_encryption`. */
  readonly properties: Readonly<Record<string, string>>;
  readonly tags: readonly string[];
  readonly protected: boolean;
  readonly hidden: boolean;
  readonly createdAt: Date;
  readonly updatedAt: Date;
};
