/**
 * Measures one of `volumeParts` on the volume group named in the environment; prints comparisons as JSON. Started in the
 * second kernel.
 */
import { TestService } from '#test/support/service.ts';
import { volumeGroup } from '#test/support/volume-group.ts';
import type { Comparison } from './comparison.ts';
import type { VolumePart } from './lvm.ts';
import { measurePanic } from './panic.ts';
import { measureServerStart } from './servers.ts';
import { measureVolumes } from './volumes.ts';

/** Fewer than on files, where they are fifty: a kernel with one processor would take half an hour to start them. */
const GUESTS = 10;
const START_ROUNDS = 3;
const STOPS = 2;

const progress = (line: string) => process.stderr.write(`${line}\n`);

const measure: Readonly<Record<VolumePart, () => Promise<Comparison[]>>> = {
  throughput: () => measureVolumes(volumeGroup, 'cipher', progress),
  servers: async () => {
    await using service = await TestService.start({ shutdownTimeout: 0, imagesType: 'lvm' });
    const plan = { bench: 'lvm', format: 'luksv2' } as const;
    const started = await measureServerStart(service, { ...plan, rounds: START_ROUNDS, target: null }, progress);
    return [started, ...(await measurePanic(service, { ...plan, guests: GUESTS, stops: STOPS }, progress))];
  },
};

process.stdout.write(JSON.stringify(await measure[process.argv[2] as VolumePart]()));
