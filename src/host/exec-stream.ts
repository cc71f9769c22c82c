import type { ChildProcess } from 'node:child_process';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { failure, missing, type Program, start } from '#host/exec.ts';
import type { PrivilegedProgram } from '#host/privileged-shapes.ts';

type Streamed = Exclude<Program, PrivilegedProgram>;

const STDERR_LIMIT = 64 * 1024;

/**
 * What a program prints. It is started when the first byte is asked for, and ended when the stream is destroyed; the stream
 * fails when the program does, as `run` would.
 */
export function readFrom(program: Streamed, args: readonly string[], doing: string): Readable {
  async function* bytes(): AsyncIterable<Buffer> {
    const child = start(program, args, {});
    const ended = endOf(child, program, doing);
    try {
      if (child.pid !== undefined) yield* child.stdout as Readable;
      await ended;
    } finally {
      child.kill('SIGTERM');
    }
  }
  return Readable.from(bytes(), { objectMode: false });
}

/** Gives a program `bytes` as its standard input, and waits until it has ended. *Throws* as `run`; what `bytes` throws. */
export async function writeTo(
  program: Streamed,
  args: readonly string[],
  bytes: AsyncIterable<Buffer>,
  doing: string,
): Promise<void> {
  const child = start(program, args, { isFed: true });
  const ended = endOf(child, program, doing);
  child.stdout?.resume();
  try {
    if (child.stdin) await pipeline(bytes, child.stdin);
  } catch (error) {
    // Without its end the program would wait for more.
    child.kill('SIGTERM');
    const isBrokenPipe = error instanceof Error && 'code' in error && error.code === 'EPIPE';
    if (!isBrokenPipe) await ended.catch(() => {});
    if (!isBrokenPipe) throw error;
  }
  await ended;
}

function endOf(child: ChildProcess, program: Program, doing: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-STDERR_LIMIT);
  });
  child.once('error', (error: NodeJS.ErrnoException) =>
    reject(error.code === 'ENOENT' ? missing(program, doing) : error),
  );
  child.once('close', (code, signal) => {
    if (code === 0) return resolve();
    reject(
      failure(program, doing, { code: code ?? 128, stdout: '', stderr: signal ? `${stderr} (${signal})` : stderr }),
    );
  });
  // Whoever destroys the stream does not wait for it.
  promise.catch(() => {});
  return promise;
}
