import type { Generated, JSONColumnType } from 'kysely';
import type { ImageId, ProjectId } from '#core/ids.ts';
import type { CreatedAt, Strings, Time } from '#db/tables/columns.ts';

export type ImagesTable = {
  id: ImageId;
  project_id: ProjectId;
  name: string | null;
  status: 'queued' | 'saving' | 'active' | 'deactivated' | 'killed' | 'deleted';
  visibility: 'private' | 'public' | 'shared' | 'community';
  disk_format: string | null;
  container_format: string | null;
  min_disk_gib: Generated<number>;
  min_ram_mib: Generated<number>;
  /** Bytes of the stored file. */
  size_bytes: number | null;
  /** Bytes a disk made from it needs. */
  virtual_size_bytes: number | null;
  md5: string | null;
  sha512: string | null;
  properties: JSONColumnType<Strings>;
  tags: string[];
  protected: Generated<boolean>;
  hidden: Generated<boolean>;
  created_at: CreatedAt;
  updated_at: Time;
};
