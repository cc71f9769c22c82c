import type { OperationContext } from '#operations/context.ts';
import { backupOperations, DurableBackupOperations } from '#operations/durable-backup-operations.ts';
import { contentOperations, DurableContentOperations } from '#operations/durable-content-operations.ts';
import { DurableHeaderOperations, headerOperations } from '#operations/durable-header-operations.ts';
import { DurableMigrationOperations, migrationOperations } from '#operations/durable-migration-operations.ts';
import { DurableSnapshotOperations, snapshotOperations } from '#operations/durable-snapshot-operations.ts';
import { DurableTransferOperations } from '#operations/durable-transfer-operations.ts';
import { DurableVolumeOperations, volumeOperations } from '#operations/durable-volume-operations.ts';
import type { Engine } from '#operations/engine.ts';
import type { BlockStorageOperations } from '#operations/volume-operations.ts';

/** Block storage on the durable engine, to which its operations are made known. */
export function durableBlockStorage(context: OperationContext, engine: Engine): BlockStorageOperations {
  for (const operation of volumeOperations(context)) engine.register(operation);
  for (const operation of snapshotOperations(context)) engine.register(operation);
  for (const operation of backupOperations(context)) engine.register(operation);
  for (const operation of contentOperations(context)) engine.register(operation);
  for (const operation of headerOperations(context)) engine.register(operation);
  for (const operation of migrationOperations(context)) engine.register(operation);
  const snapshots = new DurableSnapshotOperations(context);
  return {
    volumes: new DurableVolumeOperations(context, snapshots),
    snapshots,
    migrations: new DurableMigrationOperations(context),
    transfers: new DurableTransferOperations(context),
    backups: new DurableBackupOperations(context),
    contents: new DurableContentOperations(context),
    headers: new DurableHeaderOperations(context),
  };
}
