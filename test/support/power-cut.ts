import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { TestContext } from 'node:test';
import { GIB } from '#core/sizes.ts';
import { makeDiskImage, SecondKernel } from '#test/support/second-kernel.ts';
import { waitUntil } from '#test/support/wait.ts';

const FILE = 'test/second-kernel/power-cut.test.ts';
const STAGES = ['servers run', 'their guests are resumed', 'their guests are left off'];
/** Where the host keeps its state, on a disk of its own. */
const HOME = '/srv/nl';
const STAGE_TIMEOUT_MS = 1_800_000;

/** Lives the stages of `FILE`, each in a kernel of its own over the same two disks; between them the power is cut. */
export async function livePowerCuts(t: TestContext, group: string): Promise<void> {
  const folder = await mkdtemp('/dev/shm/nightlatch-power-cut-');
  t.after(() => rm(folder, { recursive: true }));
  const disks = await Promise.all(['volumes', 'home'].map((name) => makeDiskImage(`${folder}/${name}`, 20 * GIB)));
  let note = '';
  for (const stage of STAGES) {
    await using kernel = await SecondKernel.start({ disks, memoryMib: 3072 });
    const [volumes = '', home = ''] = kernel.disks;
    // Activating is what the units of any host do when it boots.
    const prepare = note === '' ? `vgcreate -q ${group} ${volumes}; mkfs.ext4 -q ${home}` : `vgchange -qay ${group}`;
    await kernel.must('sh', '-euc', `${prepare}; mkdir -p ${HOME}; mount ${home} ${HOME}`);
    const noteFile = `${kernel.exchange}/note`;
    const env = {
      NIGHTLATCH_TEST_VOLUME_GROUP: group,
      NIGHTLATCH_TEST_HOME: HOME,
      NIGHTLATCH_TEST_STAGE: stage,
      NIGHTLATCH_TEST_NOTE: note,
      NIGHTLATCH_TEST_NOTE_FILE: noteFile,
    };
    const whole = kernel.runTests(t, [FILE], { env, timeoutMs: STAGE_TIMEOUT_MS });
    if (stage === STAGES.at(-1)) return await whole;
    note = await noteOf(noteFile, whole);
    await kernel.cutPower();
    await whole.catch(() => {});
  }
}

/** What a stage wrote once the power may be cut. @throws when it ended before, its tests being told by then. */
async function noteOf(file: string, whole: Promise<void>): Promise<string> {
  let note = '';
  let hasEnded = false;
  const end = () => {
    hasEnded = true;
  };
  whole.then(end, end);
  const isThere = async () => {
    note = await readFile(file, 'utf8').catch(() => '');
    return note !== '' || hasEnded;
  };
  await waitUntil('the stage may be cut', isThere, STAGE_TIMEOUT_MS);
  if (note !== '') return note;
  await whole;
  throw new Error('the stage ended before the power was cut');
}
