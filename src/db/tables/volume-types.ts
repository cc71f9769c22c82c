import type { ColumnType, Generated, JSONColumnType } from 'kysely';
import type { ProjectId, VolumeTypeId } from '#core/ids.ts';
import type { VolumeEncryption } from '#core/volume.ts';
import type { CreatedAt } from '#db/tables/columns.ts';

/** How volumes of a type are encrypted. Times as ISO 8601. */
export type VolumeTypeEncryption = VolumeEncryption & {
  readonly id: string;
  readonly createdAt: string;
  readonly updatedAt: string | null;
};

export type VolumeTypesTable = {
  id: VolumeTypeId;
  name: string;
  description: string | null;
  is_public: Generated<boolean>;
  /** Null is a value there too: clients may set it. */
  extra_specs: JSONColumnType<Readonly<Record<string, string | null>>>;
  /** Null: its volumes are not encrypted. */
  encryption: JSONColumnType<VolumeTypeEncryption | null, string | null | undefined, string | null>;
  created_at: CreatedAt;
  updated_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

export type VolumeTypeAccessTable = { volume_type_id: VolumeTypeId; project_id: ProjectId };

export type VolumeQuotasTable = {
  /** A limit of one project, or of all that have none of their own: the class `default`. */
  kind: 'project' | 'class';
  owner: string;
  /** Such as `volumes` or, of one volume type, `volumes_fast`. */
  resource: string;
  /** -1: none. */
  hard_limit: number;
};
