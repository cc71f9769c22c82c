/** Why a volume's data is moved to another disk. */
export const migrationKinds = ['rekey', 'retype', 'migrate'] as const;
export type MigrationKind = (typeof migrationKinds)[number];

/**
 * How such a move is, in Nova's words for migrations. `accepted`: it has not begun to copy. `running`: it copies, or both sides
 * hold the same. `cancelling`: somebody wants it to end. `completing`: the volume has its other disk, and there is no way
 * back. The others say how it ended.
 */
export const migrationStatuses = [
  'accepted',
  'running',
  'cancelling',
  'completing',
  'completed',
  'cancelled',
  'error',
] as const;
export type MigrationStatus = (typeof migrationStatuses)[number];

/** Those in which it has not ended. */
export const underWay = ['accepted', 'running', 'cancelling', 'completing'] as const satisfies MigrationStatus[];

export function isUnderWay(status: MigrationStatus): boolean {
  return (underWay as readonly MigrationStatus[]).includes(status);
}

/** What a volume shows as its `migration_status` then, in Cinder's words. */
export const shownMigrationStatus: Readonly<Record<MigrationStatus, string | null>> = {
  accepted: 'starting',
  running: 'migrating',
  cancelling: 'migrating',
  completing: 'completing',
  completed: 'success',
  cancelled: null,
  error: 'error',
};
