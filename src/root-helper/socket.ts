import { readFile, readlink, stat } from 'node:fs/promises';
import { type Server, Socket, type SocketConstructorOpts } from 'node:net';

/** The first descriptor that systemd hands over, see sd_listen_fds(3). */
const FIRST_DESCRIPTOR = 3;
/** Others than the owner and the group. */
const OTHERS = 0o007;

/** The path of the socket that systemd handed over, and whether others than its owner and its group may write to it. */
export async function givenSocket(): Promise<{ readonly path: string; readonly isForAll: boolean }> {
  const path = await pathOf(FIRST_DESCRIPTOR);
  return { path, isForAll: ((await stat(path)).mode & OTHERS) !== 0 };
}

/** Listens at a new socket for owner and group, or, with null, at the one that systemd handed over. */
export async function listen(server: Server, path: string | null): Promise<void> {
  process.umask(0o117);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(path === null ? { fd: FIRST_DESCRIPTOR } : { path }, resolve);
  await promise;
}

/**
 * Takes over a connection of a server with `pauseOnConnect`, to read it into `buffer` and nowhere else: what a socket reads
 * otherwise stays behind in memory that Node lets go of without overwriting it. `take` gets the part that was filled.
 *
 * That a socket can be made around a connection that is there (`handle`) is used by Node itself, and not documented.
 */
export function readInto(accepted: Socket, buffer: Buffer, take: (bytes: Buffer) => void): Socket {
  const owner = accepted as unknown as { _handle: unknown };
  const handle = owner._handle;
  owner._handle = null;
  const onread = {
    buffer,
    callback(length: number) {
      take(buffer.subarray(0, length));
      return true;
    },
  };
  return new Socket({ handle, onread } as SocketConstructorOpts);
}

/** Where a UNIX socket was bound, as the kernel tells it: `Num RefCount Protocol Flags Type St Inode Path`. */
async function pathOf(descriptor: number): Promise<string> {
  const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`/proc/self/fd/${descriptor}`))?.[1];
  const sockets = (await readFile('/proc/net/unix', 'utf8')).split('\n').map((line) => line.split(/ +/));
  const fields = sockets.find((each) => inode !== undefined && each[6] === inode);
  const path = fields?.slice(7).join(' ');
  if (!path?.startsWith('/')) throw new Error(`descriptor ${descriptor} is no socket with a path`);
  return path;
}
