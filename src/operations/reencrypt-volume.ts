import type { OperationContext } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { moveVolume } from '#operations/move-volume.ts';
import type { VolumeInput } from '#operations/volume-context.ts';

/** Reencrypt volume: another volume key, so that whoever kept the one before can read nothing any more. See `moveVolume`. */
export function reencryptVolume(context: OperationContext): Operation<VolumeInput> {
  return moveVolume(context, { name: 'reencrypt-volume', change: async () => ({}), columns: async () => ({}) });
}
