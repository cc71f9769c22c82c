import { crashPoint } from '#core/crash-point.ts';
import type { VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { updateDisk } from '#db/disks.ts';
import type { OperationContext } from '#operations/context.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Step } from '#operations/engine.ts';
import { exchangeForSuccessor, planSuccessor, type SuccessorColumns } from '#operations/successor-disk.ts';
import { needPlacedDisk, type PlacedDisk } from '#operations/volume-context.ts';
import { destroyVolumeDisk, storeVolumeKey } from '#operations/volume-steps.ts';

/** Where the new content of a volume comes from, and what changes with it. */
export type NewContent<Input> = {
  /** Makes the disk hold it; locked on return, its lease closed. *Repeat*: starts over. */
  fill(input: Input, coming: PlacedDisk): Promise<void>;
  /** How its disk is to differ. */
  columns?(input: Input): SuccessorColumns;
  /** Written in the transaction that exchanges the disks. */
  also?(tx: Queryable, input: Input): Promise<void>;
};

/**
 * Steps that give a volume other content: a disk is made with it, under a key of its own, and takes the place of the
 * volume's. Until then the volume keeps what it has.
 *
 * | step      | effect                                       | compensation                    | a repeat         |
 * |-----------|----------------------------------------------|---------------------------------|------------------|
 * | wait      | what is being made from the volume has ended | –                               | fine             |
 * | plan      | a row for the disk that is coming            | the row ended                   | keeps the row    |
 * | store-key | its secret is stored                         | secret destroyed                | keeps the secret |
 * | fill      | it holds the new content, locked             | header overwritten, medium gone | starts over      |
 * | exchange  | it is the volume's; the one before is kept   | none: the point of no return    | finds it done    |
 * | remove    | the one before and its secret are destroyed  | none                            | fine             |
 */
export function replaceContent<Input extends { readonly volumeId: VolumeId; readonly requestId: string }>(
  context: OperationContext,
  { fill, columns = () => ({}), also = async () => {} }: NewContent<Input>,
): Step<Input>[] {
  const discard = ({ volumeId, requestId }: Input) => destroyVolumeDisk(context, volumeId, requestId, 'coming');
  return [
    waitForReaders(context),
    {
      name: 'plan',
      run: (input) => planSuccessor(context, input.volumeId, async () => columns(input)),
      undo: discard,
    },
    storeVolumeKey(context, ({ volumeId }: Input) => volumeId, 'coming'),
    {
      name: 'fill',
      async run(input) {
        const coming = await needPlacedDisk(context, input.volumeId, 'coming');
        if (coming.disk.state === 'formatted') return;
        await fill(input, coming);
        crashPoint('steps.replace-content.filled');
        await updateDisk(context.db, coming.disk.id, { state: 'formatted' });
      },
      undo: discard,
    },
    {
      name: 'exchange',
      async run(input) {
        await exchangeForSuccessor(context, input.volumeId, (tx) => also(tx, input));
        crashPoint('steps.replace-content.exchanged');
      },
    },
    {
      name: 'remove',
      run: ({ volumeId, requestId }) => destroyVolumeDisk(context, volumeId, requestId, 'kept'),
    },
  ];
}
