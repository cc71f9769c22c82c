import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import {
  ANSWER_LIMITS,
  FrameReader,
  frame,
  frameLength,
  type HelperAnswer,
  type HelperRequest,
  LONGEST_MS,
  parseAnswer,
} from '#host/helper-protocol.ts';

export type HelperJob = {
  readonly program: string;
  readonly args: readonly string[];
  readonly doing: string;
  readonly stdin?: Secret;
  readonly input?: string;
  readonly timeoutMs?: number;
};

export type HelperOutcome = { readonly answer: HelperAnswer; readonly stdout: string; readonly stderr: string };

/** How long after its time was up a program may take to end. */
const GRACE_MS = 10_000;

/**
 * Has the root helper run a program to its end. The key is on its way when the call returns, and may be zeroed then.
 *
 * @throws root-helper-unavailable.
 */
export async function runByHelper(path: HostPath, job: HelperJob): Promise<HelperOutcome> {
  const unavailable = (reason: string, cause?: unknown) =>
    new NightlatchError('root-helper-unavailable', { doing: job.doing, path, reason }, { cause });
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    const answered = readAnswer(socket, (job.timeoutMs ?? LONGEST_MS) + GRACE_MS);
    // Waited for below; a connection that breaks while we write must not go unheard meanwhile.
    answered.catch(() => {});
    await send(socket, job);
    return await answered;
  } catch (error) {
    throw unavailable(describeError(error), error);
  } finally {
    socket.destroy();
  }
}

async function send(socket: Socket, { program, args, stdin, input, timeoutMs }: HelperJob): Promise<void> {
  const kind = stdin ? 'key' : input === undefined ? 'none' : 'text';
  const request: HelperRequest = { program, args, input: kind, timeoutMs: timeoutMs ?? LONGEST_MS };
  await write(socket, frame(JSON.stringify(request)));
  if (!stdin) return await write(socket, frame(input ?? ''));
  using key = stdin.copy();
  await write(socket, frameLength(key.use((bytes) => bytes.length)));
  await key.use((bytes) => write(socket, bytes));
}

/** Settles when the kernel has taken all of it, so that `bytes` are no longer needed. */
function write(socket: Socket, bytes: Buffer): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.write(bytes, (error) => (error ? reject(error) : resolve()));
  return promise;
}

function readAnswer(socket: Socket, timeoutMs: number): Promise<HelperOutcome> {
  const { promise, resolve, reject } = Promise.withResolvers<HelperOutcome>();
  const reader = new FrameReader(ANSWER_LIMITS);
  const late = setTimeout(() => reject(new Error('it did not answer in time')), timeoutMs);
  late.unref();
  socket.once('error', reject);
  socket.once('close', () => reject(new Error('it closed the connection; its log says why')));
  socket.on('data', (chunk) => {
    try {
      if (!reader.take(chunk)) return;
      const [head, stdout, stderr] = reader.frames as [Buffer, Buffer, Buffer];
      const answer = parseAnswer(head);
      if (answer === null) throw new Error('its answer is none');
      resolve({ answer, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') });
    } catch (error) {
      reject(error);
    }
  });
  return promise.finally(() => clearTimeout(late));
}
