import { closeSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import type { Secret } from '#core/secret.ts';

/** The longest key a pipe takes at once without a reader (`PIPE_BUF`, see pipe(7)). */
const LIMIT = 4096;
/** `O_CLOEXEC` of fcntl.h: no program started meanwhile inherits the pipe. */
const CLOSE_ON_EXEC = 0o2000000;

let pipe2: ((fds: number[], flags: number) => number) | undefined;

/**
 * Puts a copy of `key` into a pipe and returns the reading end, for a program to inherit; the caller closes it.
 *
 * A pipe from libc, because what Node calls a pipe is a socket, and a program that opens `/dev/fd/3` by name, as QEMU's
 * `secret,file=` does, cannot open a socket: "No such device or address".
 */
export function keyPipe(key: Secret): number {
  pipe2 ??= koffi.load('libc.so.6').func('int pipe2(_Out_ int *fds, int flags)');
  const fds = [-1, -1];
  if (pipe2(fds, CLOSE_ON_EXEC) !== 0) throw new Error('no pipe could be made: the limit of open files is reached');
  const [reader = -1, writer = -1] = fds;
  try {
    key.use((bytes) => {
      if (bytes.length > LIMIT) throw new Error(`a key of ${bytes.length} bytes does not fit into a pipe`);
      writeSync(writer, bytes);
    });
    return reader;
  } catch (error) {
    closeSync(reader);
    throw error;
  } finally {
    closeSync(writer);
  }
}
