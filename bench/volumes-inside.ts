/** Measures on the volume group named by its argument; prints comparisons as JSON. Started in the second kernel. */
import { measureVolumes } from './volumes.ts';

const [group = ''] = process.argv.slice(2);
const comparisons = await measureVolumes(group, (line) => process.stderr.write(`${line}\n`));
process.stdout.write(JSON.stringify(comparisons));
