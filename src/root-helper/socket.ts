import { stat } from 'node:fs/promises';
import { type Server, Socket, type SocketConstructorOpts } from 'node:net';
import koffi from 'koffi';

/** The first descriptor that systemd hands over, see sd_listen_fds(3). */
const FIRST_DESCRIPTOR = 3;
/** Others than the owner and the group. */
const OTHERS = 0o007;
const AF_UNIX = 1;
/** `struct sockaddr_un`: the family, then the path. */
const ADDRESS_BYTES = 110;
const FAMILY_BYTES = 2;

/** The path of the socket that systemd handed over, and whether others than its owner and its group may write to it. */
export async function givenSocket(): Promise<{ readonly path: string; readonly isForAll: boolean }> {
  const path = pathOf(FIRST_DESCRIPTOR);
  return { path, isForAll: ((await stat(path)).mode & OTHERS) !== 0 };
}

/** Listens at a new socket for owner and group, or, with null, at the one that systemd handed over. */
export async function listen(server: Server, path: string | null): Promise<void> {
  const before = process.umask(0o117);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(path === null ? { fd: FIRST_DESCRIPTOR } : { path }, resolve);
  await promise;
  // The programs it starts inherit it, and cryptsetup makes a folder: without `x` it could not use that itself.
  process.umask(before);
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

/** Where a UNIX socket was bound, see getsockname(2) and unix(7). Node does not tell for one it has not made. */
function pathOf(descriptor: number): string {
  const getsockname = koffi.load('libc.so.6').func('int getsockname(int fd, void *address, _Inout_ uint32_t *length)');
  const address = Buffer.alloc(ADDRESS_BYTES);
  const length = [address.length];
  const failed = getsockname(descriptor, address, length) !== 0 || address.readUInt16LE(0) !== AF_UNIX;
  const path = address.toString('utf8', FAMILY_BYTES, length[0]).split('\0')[0] ?? '';
  if (failed || !path.startsWith('/')) throw new Error(`descriptor ${descriptor} is no UNIX socket with a path`);
  return path;
}
