import type { ColumnType, Generated } from 'kysely';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { CreatedAt } from '#db/tables/columns.ts';

export type ProjectsTable = {
  id: ProjectId;
  domain_id: Generated<string>;
  name: string;
  description: Generated<string>;
  enabled: Generated<boolean>;
  created_at: CreatedAt;
};

export type UsersTable = {
  id: UserId;
  domain_id: Generated<string>;
  name: string;
  /** scrypt, with its parameters and salt; never the password. */
  password_hash: string | null;
  email: string | null;
  description: Generated<string>;
  default_project_id: ProjectId | null;
  enabled: Generated<boolean>;
  created_at: CreatedAt;
};

export type RolesTable = { id: string; name: string };
export type RoleAssignmentsTable = { user_id: UserId; project_id: ProjectId; role_id: string };

export type TokensTable = {
  /** SHA-256 of the token; the token itself is never stored. */
  hash: Buffer;
  audit_id: string;
  user_id: UserId;
  /** Null: an unscoped token. */
  project_id: ProjectId | null;
  methods: string[];
  issued_at: ColumnType<Date, Date, never>;
  expires_at: ColumnType<Date, Date, never>;
  revoked_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};
