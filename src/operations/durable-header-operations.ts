import { chosenHeaderBackup, type HeaderBackup } from '#core/disk.ts';
import { badRequest } from '#core/errors.ts';
import type { VolumeId } from '#core/ids.ts';
import { claimVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';

import { openIn, restoreHeader } from '#operations/restore-header.ts';
import type { Requester } from '#operations/server-operations.ts';
import { type PlacedDisk, placedDiskOf, type VolumeInput } from '#operations/volume-context.ts';
import type { HeaderOperations } from '#operations/volume-operations.ts';
import { guestThatHas } from '#operations/volume-steps.ts';

/** Every operation on headers. */
export function headerOperations(context: OperationContext): Operation<VolumeInput>[] {
  return [restoreHeader(context)];
}

/** The headers of volumes, which their host keeps copies of. */
export class DurableHeaderOperations implements HeaderOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async list(id: VolumeId): Promise<readonly HeaderBackup[]> {
    const { disk, agent } = await this.#encryptedDisk(id);
    return await agent.headerBackups(disk);
  }

  async restore(id: VolumeId, version: number | null, { requestId }: Requester): Promise<void> {
    const { disk, agent } = await this.#encryptedDisk(id);
    const guest = await guestThatHas(this.#context, id);
    if (guest) throw openIn(guest.server.id, disk);
    const { version: headerVersion } = chosenHeaderBackup(disk.id, await agent.headerBackups(disk), version);
    const operation = pendingOn<VolumeInput>('restore-header', { volumeId: id, requestId, headerVersion });
    await claimVolume(this.#context.db, id, 'restore-header', operation);
    await this.#context.engine.begin(operation);
  }

  async #encryptedDisk(id: VolumeId): Promise<PlacedDisk> {
    const placed = await placedDiskOf(this.#context, id);
    if (!placed) throw badRequest(`Invalid volume: Volume ${id} has no disk on any host.`);
    const { encryption } = placed.disk;
    if (encryption !== null && encryption !== 'plain') return placed;
    const why = encryption === null ? 'is not encrypted' : 'has format plain, which has no header';
    throw badRequest(`Invalid volume: Volume ${id} ${why}.`);
  }
}
