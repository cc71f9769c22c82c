import type { Duplex, Readable } from 'node:stream';
import type { Secret } from '#core/secret.ts';
import type { DiskKeys, HostAgent } from '#host/host-agent.ts';

/** What the control plane can ask of a host. Events come by themselves. */
export type Verb = Exclude<keyof HostAgent, 'onEvent'>;

/** How an answer comes back: as JSON, as bytes, as a stream to read, or as a stream both ways. */
export type AnswerKind = 'json' | 'bytes' | 'stream' | 'two-way';

type AnswerOf<Result> = Result extends Duplex
  ? 'two-way'
  : Result extends Readable
    ? 'stream'
    : Result extends Buffer
      ? 'bytes'
      : 'json';

/** Every verb with the kind of its answer. One that is missing here, or is here as another kind, does not compile. */
export const verbs: { readonly [V in Verb]: AnswerOf<Awaited<ReturnType<HostAgent[V]>>> } = {
  describe: 'json',
  cacheImage: 'json',
  pruneImages: 'json',
  createDisk: 'json',
  paceCopy: 'json',
  copyRunningDisk: 'json',
  mirrorDisk: 'json',
  mirrorState: 'json',
  setMirrorSpeed: 'json',
  switchToMirror: 'json',
  endMirror: 'json',
  openMedium: 'stream',
  rekeyDisk: 'json',
  headerBackups: 'json',
  restoreHeader: 'json',
  forgetHeaders: 'json',
  growDisk: 'json',
  attachVolume: 'json',
  detachVolume: 'json',
  destroyDisk: 'json',
  startServer: 'json',
  stopServer: 'json',
  suspendServer: 'json',
  restoreServer: 'json',
  pauseServer: 'json',
  lockPaused: 'json',
  lockedWhilePaused: 'json',
  unlockPaused: 'json',
  unpauseServer: 'json',
  consoleLog: 'bytes',
  openConsole: 'two-way',
  forgetServer: 'json',
  guests: 'json',
  inventory: 'json',
  lockStrays: 'json',
  lockDown: 'json',
  liftLockDown: 'json',
  isLockedDown: 'json',
};

export function isVerb(name: string): name is Verb {
  return Object.hasOwn(verbs, name);
}

/** `createDisk` as an error message says it: `create disk`. */
export function verbInWords(verb: Verb): string {
  return verb.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

type Json = string | number | boolean | null | undefined | readonly Json[] | { readonly [key: string]: Json };
/** What an argument may be, see `call.ts`. A source of bytes is opened only when the host asks for it. */
export type Portable = Json | Secret | DiskKeys | NamedKeys | ReadonlySet<string> | WithSource;
type NamedKeys = { readonly [name: string]: Secret };
type WithSource = { readonly [key: string]: Json | (() => Promise<Readable>) };

type Unportable = { [V in Verb]: Parameters<HostAgent[V]>[number] extends Portable ? never : V }[Verb];
/** A verb with an argument that cannot travel is named by the compiler here. */
const _everyVerbTravels: [Unportable] extends [never] ? true : Unportable = true;
void _everyVerbTravels;
