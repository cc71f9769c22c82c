/** Why a volume's data is moved to another disk. */
export const migrationKinds = ['rekey', 'retype', 'migrate'] as const;
export type MigrationKind = (typeof migrationKinds)[number];

/**
 * How such a move is, in Nova's words for migrations. `accepted`: it has not begun to copy. `running`: it copies, or both sides
 * hold the same. `cancelling`: somebody wants it to end. The others say how it ended.
 */
export const migrationStatuses = ['accepted', 'running', 'cancelling', 'completed', 'cancelled', 'error'] as const;
export type MigrationStatus = (typeof migrationStatuses)[number];

/** Whether it has not ended. */
export function isUnderWay(status: MigrationStatus): boolean {
  return status === 'accepted' || status === 'running' || status === 'cancelling';
}

/** What a volume shows as its `migration_status` then, in Cinder's words. */
export const shownMigrationStatus: Readonly<Record<MigrationStatus, string | null>> = {
  accepted: 'starting',
  running: 'migrating',
  cancelling: 'migrating',
  completed: 'success',
  cancelled: null,
  error: 'error',
};
