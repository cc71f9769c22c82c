/**
 * A process that makes libvirt calls, one at a time: a call may take seconds, and a fault in native code must not end
 * the service. Its argument is the connection URI. It ends when its parent does.
 */
import { readSync } from 'node:fs';
import { allocateKey } from '#core/secret.ts';
import { type Handle, native, silenceErrors } from './binding.ts';
import { calls, LibvirtError, lastError } from './calls.ts';
import type { Reply, Request } from './protocol.ts';
import { stayUntilDisconnected } from './worker-life.ts';

const KEY_DESCRIPTOR = 4;
const NO_CONNECTION = 0;
const uri = process.argv[2] ?? '';
let connection: Handle | null = null;

stayUntilDisconnected();
native.virInitialize();
silenceErrors();
process.on('message', (message) => serve(message as Request));

function serve(request: Request): void {
  // First of all, so that the pipe holds nothing but the next key whatever happens.
  const key = readKey(request.keyBytes);
  try {
    reply({ kind: 'begun', id: request.id });
    reply(answer(request, key));
  } finally {
    key.fill(0);
  }
}

function answer({ id, name, args }: Request, key: Buffer): Reply {
  let open: Handle;
  try {
    open = connect();
  } catch (error) {
    return failed(id, error, true);
  }
  try {
    const call = calls[name] as (connection: Handle, key: Buffer, ...args: readonly string[]) => unknown;
    return { kind: 'done', id, result: call(open, key, ...args) };
  } catch (error) {
    return failed(id, error, !isAlive(open));
  }
}

/** The connection, made anew when the one there was has died, as after a restart of libvirt. */
function connect(): Handle {
  if (connection !== null && !isAlive(connection)) {
    native.virConnectClose(connection);
    connection = null;
  }
  connection ??= native.virConnectOpen(uri);
  if (connection === null) throw lastError();
  return connection;
}

/** A round trip, because virConnectIsAlive alone learns of a closed socket only by using it. */
function isAlive(handle: Handle): boolean {
  return native.virConnectIsAlive(handle) === 1 && native.virConnectGetLibVersion(handle, [0]) === 0;
}

function failed(id: number, error: unknown, lost: boolean): Reply {
  const code = error instanceof LibvirtError ? error.code : NO_CONNECTION;
  return { kind: 'failed', id, code, lost, message: error instanceof Error ? error.message : String(error) };
}

function readKey(length: number): Buffer {
  const key = allocateKey(length);
  let read = 0;
  while (read < length) {
    const count = readSync(KEY_DESCRIPTOR, key, read, length - read, null);
    if (count === 0) throw new Error('the parent process ended in the middle of a key');
    read += count;
  }
  return key;
}

function reply(message: Reply): void {
  process.send?.(message);
}
