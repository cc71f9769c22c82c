import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { CloudClient } from '#cli/cloud/client.ts';
import { markersFor } from '#cli/guest-image/guest-script.ts';
import { evidenceTable, style, tellPerson, tellProgram } from '#cli/tour/audience.ts';
import { provideImage, TOUR_NAME } from '#cli/tour/boot-image.ts';
import { deleteServer, verifyAuditLog } from '#cli/tour/delete-steps.ts';
import { showDisks } from '#cli/tour/disk-steps.ts';
import { findGuests } from '#cli/tour/host-look.ts';
import { Narrator, StepFailed, type Told } from '#cli/tour/narrator.ts';
import { letGuestPowerOff, resumeServer, startServer, stopServer, suspendServer } from '#cli/tour/power-steps.ts';
import { createServer, provideFlavor, removeTourServers } from '#cli/tour/server-steps.ts';
import { startTourService, type TourService, type TourServiceOptions } from '#cli/tour/tour-service.ts';
import { fail, failWith, print, say } from '#cli/ui.ts';
import { describeError } from '#core/errors.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';

export type TourOptions = {
  /** A cloud image instead of the one built on the spot. */
  readonly image?: string;
  readonly dataDir: string;
  readonly imagesType: string;
  readonly json: boolean;
  /** Ends after the last step instead of serving on. */
  readonly exit: boolean;
};

/** 128 and the number of SIGINT, as shells have it. */
const INTERRUPTED_CODE = 130;

/**
 * Shows the main job on the real service, step by step: encrypted servers whose keys come and go. Returns the exit code:
 * 0, all was shown; 1, a step failed; 130, Ctrl-C in the middle. On return nothing that it started runs any more.
 */
export async function tour(options: TourOptions): Promise<number> {
  const stop = new AbortController();
  const interrupted = onInterrupt(stop);
  const narrator = new Narrator(options.json ? tellProgram() : tellPerson(), stop.signal);
  const code = await runTour(options, narrator, stop.signal, interrupted).catch((error: unknown) => {
    const failure = firstFailure(error);
    tellFailure(options, failure, stop.signal);
    return stop.signal.aborted && failure instanceof StepFailed ? INTERRUPTED_CODE : 1;
  });
  // Libraries may keep a timer or a socket open; everything of ours is closed by now.
  setTimeout(() => process.exit(), 1000).unref();
  return code;
}

async function runTour(
  options: TourOptions,
  narrator: Narrator,
  stop: AbortSignal,
  interrupted: Promise<void>,
): Promise<number> {
  {
    await using undo = new AsyncDisposableStack();
    const service = await mainJob(options, narrator, stop, undo);
    if (!options.exit) {
      conclude(options, narrator);
      inviteTo(options, service);
      await interrupted;
      const guests = await findGuests(resolve(options.dataDir));
      if (guests.length > 0) say(`guests run on: ${guests.length}; the next tour, or npm start, finds them again`);
    }
  }
  if (options.exit) conclude(options, narrator);
  return 0;
}

/** The steps, in order. What they start is owned by `undo`. */
async function mainJob(
  options: TourOptions,
  narrator: Narrator,
  stop: AbortSignal,
  undo: AsyncDisposableStack,
): Promise<TourService> {
  const dataDirectory = resolve(options.dataDir);
  const needle = `nightlatch-${randomBytes(8).toString('hex')}`;
  const start = { dataDirectory, imagesType: options.imagesType, stop, undo };
  const imageTitle = options.image ? 'Uploading your image' : 'Building a bootable disk image and uploading it';
  const progress = (line: string) => narrator.progress(line);

  const tour = await narrator.step('service', `Starting the service in ${dataDirectory}`, () => startClean(start));
  const { client } = tour;
  undo.defer(() => removeServers(tour, dataDirectory));
  const image = await narrator.step('image', imageTitle, async () => {
    const cacheDirectory = `${dataDirectory}/cache/guest-image`;
    return await provideImage(client, { file: options.image ?? null, cacheDirectory, progress });
  });
  const flavor = await narrator.step('flavor', 'Creating a flavor that asks for encryption', () =>
    provideFlavor(client, image),
  );
  const { server, firstBoot } = await narrator.step('server', 'Creating a server; its guest boots and writes', () =>
    createServer(client, image, flavor, markersFor(needle), stop),
  );
  await narrator.step('disks', 'Looking at its disks on the host', () => showDisks(tour, server, needle));
  await narrator.step('stop', 'Stopping it: its keys go', () => stopServer(tour, server));
  const boot = await narrator.step('start', 'Starting it: its keys come back', () =>
    startServer(tour, server, firstBoot),
  );
  await narrator.step('suspend', 'Suspending it: its memory is saved, encrypted', () =>
    suspendServer(tour, server, needle),
  );
  await narrator.step('resume', 'Resuming it: the same boot goes on', () => resumeServer(tour, server, boot));
  await narrator.step('poweroff', 'The guest powers itself off', () => letGuestPowerOff(tour, server));
  await narrator.step('delete', 'Deleting it: everything is destroyed', () => deleteServer(tour, server, needle));
  await narrator.step('audit', 'Verifying the audit log', () => verifyAuditLog(tour, server));
  return tour;
}

async function startClean(options: TourServiceOptions): Promise<Told<TourService>> {
  const { value, evidence } = await startTourService(options);
  const deleted = await removeTourServers(value.client);
  if (deleted === 0) return { value, evidence };
  const left = { lookedAt: 'left by an interrupted tour', found: `${deleted} server, deleted now` };
  return { value, evidence: [...evidence, left] };
}

/** Deletes what is left of the tour's servers; a guest that cannot be deleted is ended, so that no key stays. */
async function removeServers({ service }: TourService, dataDirectory: string): Promise<void> {
  try {
    await removeTourServers(new CloudClient(await readCloudsYaml(service.cloudsFile)));
  } catch (error) {
    fail(`deleting the server ${TOUR_NAME} failed: ${describeError(error)}`, ['The next tour deletes it.']);
    for (const pid of await findGuests(dataDirectory)) process.kill(pid, 'SIGTERM');
  }
}

/** The last word: the console of evidence, or the result for a program. */
function conclude({ json }: TourOptions, narrator: Narrator): void {
  if (json) {
    print(JSON.stringify({ result: 'ok' }));
    return;
  }
  print('');
  for (const line of evidenceTable(narrator.shown)) print(line);
}

function inviteTo({ json }: TourOptions, { service, configFile }: TourService): void {
  if (json) return;
  print('');
  print(`${style('bold', 'The service goes on')} at ${service.url} until Ctrl-C. How to log in: ${service.cloudsFile}`);
  print('Try it in another terminal (openstack is in the Debian package python3-openstackclient):');
  print('');
  print(`  export OS_CLIENT_CONFIG_FILE=${service.cloudsFile} OS_CLOUD=nightlatch`);
  print(`  openstack server create --image ${TOUR_NAME} --flavor ${TOUR_NAME} --nic none --wait mine`);
  print('  openstack console log show mine');
  print('  openstack server suspend mine');
  print(`  bin/nightlatch key lease list --config ${configFile}`);
}

function tellFailure({ json, dataDir }: TourOptions, error: unknown, stop: AbortSignal): void {
  const isStep = error instanceof StepFailed;
  if (json) {
    const where = isStep ? { step: error.step } : {};
    print(JSON.stringify({ result: 'failed', ...where, reason: describeError(error) }));
  }
  if (!isStep) failWith(error);
  else if (stop.aborted) say('interrupted; nothing of it is left running');
  else fail(`the step "${error.step}" failed: ${error.message}`, [`The service's own log: ${dataDir}/service.log`]);
}

/** What went wrong first; stopping may have gone wrong after it. */
function firstFailure(error: unknown): unknown {
  return error instanceof SuppressedError ? firstFailure(error.suppressed) : error;
}

/** Settles at the first SIGINT or SIGTERM, which also aborts `stop`; a second one ends the process at once. */
function onInterrupt(stop: AbortController): Promise<void> {
  const { promise, resolve: settle } = Promise.withResolvers<void>();
  const onSignal = () => {
    if (stop.signal.aborted) process.exit(INTERRUPTED_CODE);
    say('\nstopping; Ctrl-C again ends at once');
    stop.abort();
    settle();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  return promise;
}
