import type { Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { describeError, NightlatchError } from '#core/errors.ts';
import { allocateKey, Secret } from '#core/secret.ts';
import { runHelperShape } from '#host/exec.ts';
import {
  FrameReader,
  frame,
  type HelperAnswer,
  type HelperRequest,
  parseRequest,
  REQUEST_LIMITS,
} from '#host/helper-protocol.ts';
import { readInto } from '#root-helper/socket.ts';

/** Commands at the same time; a host does a few for each server that starts or stops. */
const MOST_CONNECTIONS = 128;
/** A client has sent its whole request by then, or is none of ours. */
const REQUEST_TIMEOUT_MS = 3000;
const READ_BYTES = 16 * 1024;

type Told = { readonly answer: HelperAnswer; readonly stdout: string; readonly stderr: string };

/**
 * A server that runs one command for each connection, if it is among `helperShapes` within what was granted. It trusts
 * nothing that it is sent; a client that is gone takes its program with it. `say` is told what was refused.
 */
export function helperServer(say: (line: string) => void): Server {
  const live = new Set<Socket>();
  return createServer({ pauseOnConnect: true }, (accepted) => {
    if (live.size >= MOST_CONNECTIONS) return void accepted.destroy();
    const socket = serve(accepted, say);
    live.add(socket);
    socket.once('close', () => live.delete(socket));
  });
}

function serve(accepted: Socket, say: (line: string) => void): Socket {
  const reader = new FrameReader(REQUEST_LIMITS);
  const gone = new AbortController();
  const late = setTimeout(() => socket.destroy(), REQUEST_TIMEOUT_MS);
  const socket = readInto(accepted, allocateKey(READ_BYTES), (bytes) => {
    try {
      if (!reader.take(bytes)) return;
    } catch (error) {
      say(`closed a connection: ${describeError(error)}`);
      socket.destroy();
      return;
    }
    clearTimeout(late);
    void obey(reader, gone.signal, say).then((told) => answer(socket, told));
  });
  // Whatever breaks a connection, it ends with `close`.
  socket.on('error', () => {});
  socket.once('close', () => {
    clearTimeout(late);
    reader.wipe();
    gone.abort();
  });
  return socket;
}

async function obey(reader: FrameReader, signal: AbortSignal, say: (line: string) => void): Promise<Told> {
  const [head, input] = reader.frames as [Buffer, Buffer];
  const request = parseRequest(head);
  if (request === null) return told({ kind: 'refused', reason: 'this is no request' });
  const doing = `Running ${request.program} for the service`;
  try {
    using given = givenInput(request, input);
    const { timeoutMs } = request;
    const options = { doing, timeoutMs, signal, ...given.options };
    const { code, stdout, stderr } = await runHelperShape(request.program, request.args, options);
    return { answer: { kind: 'ended', code }, stdout, stderr };
  } catch (error) {
    if (error instanceof NightlatchError && error.code === 'program-missing') return told({ kind: 'missing' });
    const reason = describeError(error);
    say(`refused ${JSON.stringify([request.program, ...request.args])}: ${reason}`);
    return told({ kind: error instanceof NightlatchError ? 'refused' : 'failed', reason });
  }
}

/** The standard input that was sent; a key is zeroed when the scope ends. */
function givenInput({ input }: HelperRequest, bytes: Buffer) {
  const key = input === 'key' ? Secret.adopt(bytes) : null;
  const options = { ...(key ? { stdin: key } : {}), ...(input === 'text' ? { input: bytes.toString('utf8') } : {}) };
  return { options, [Symbol.dispose]: () => key?.[Symbol.dispose]() };
}

function told(answer: HelperAnswer): Told {
  return { answer, stdout: '', stderr: '' };
}

function answer(socket: Socket, { answer: head, stdout, stderr }: Told): void {
  if (socket.destroyed) return;
  socket.end(Buffer.concat([frame(JSON.stringify(head)), frame(stdout), frame(stderr)]));
}
