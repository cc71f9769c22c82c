/**
 * A process that runs libvirt's event loop and tells its parent what happens to domains. Its argument is the connection
 * URI. It ends when the connection does or its parent.
 */
import { callback, type Handle, native, silenceErrors } from './binding.ts';
import { domainUuid, lastError } from './calls.ts';
import type { Notice } from './protocol.ts';
import { stayUntilDisconnected } from './worker-life.ts';

const LIFECYCLE = 0;
const KEEPALIVE_SECONDS = 5;
const KEEPALIVE_MISSES = 3;

stayUntilDisconnected();
native.virInitialize();
silenceErrors();
check(native.virEventRegisterDefaultImpl());
const connection = native.virConnectOpen(process.argv[2] ?? '');
if (connection === null) tell({ kind: 'unreachable', reason: lastError().message }, end);
else listen(connection);

function listen(connection: Handle): void {
  const onLifecycle = callback('LifecycleCallback', (_: Handle, domain: Handle, event: number, detail: number) => {
    tell({ kind: 'lifecycle', uuid: domainUuid(domain), event, detail });
    return 0;
  });
  check(native.virConnectDomainEventRegisterAny(connection, null, LIFECYCLE, onLifecycle, null, null));
  check(native.virConnectRegisterCloseCallback(connection, callback('CloseCallback', end), null, null));
  check(native.virConnectSetKeepAlive(connection, KEEPALIVE_SECONDS, KEEPALIVE_MISSES));
  tell({ kind: 'connected' });
  loop();
}

/** Each turn waits in a thread of its own, so that callbacks and the parent's messages reach this one. */
function loop(): void {
  native.virEventRunDefaultImpl.async((error) => (error ? end() : loop()));
}

function end(): void {
  process.kill(process.pid, 'SIGKILL');
}

function check(status: number): void {
  if (status < 0) throw lastError();
}

function tell(notice: Notice, sent: () => void = () => {}): void {
  process.send?.(notice, sent);
}
