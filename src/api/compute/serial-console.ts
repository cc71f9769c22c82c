import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import websocket from '@fastify/websocket';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { createWebSocketStream, type WebSocket } from 'ws';
import { noServer } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { badRequest, describeError, NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import { findServer } from '#db/servers.ts';

/** A frame from a client holds no more than this; keys and pasted text are far smaller. */
const MAX_FRAME_BYTES = 64 * 1024;
/** See RFC 6455 section 7.4.1: the server cannot do what was asked. */
const INTERNAL_ERROR = 1011;
/** A close frame holds 123 bytes of reason. */
const MAX_REASON = 120;

declare module 'fastify' {
  interface FastifyRequest {
    /** The server whose console this connection is for. */
    consoleOf: ServerId | null;
  }
}

/**
 * The far end of the addresses that `Consoles` offers: a WebSocket that carries the bytes of the guest's serial console
 * both ways. The token in the address is all it asks for, once. See "Serial console" in Compute's guide for consoles.
 */
export async function addSerialConsole(app: FastifyInstance, services: ComputeServices): Promise<void> {
  await app.register(websocket, {
    options: {
      maxPayload: MAX_FRAME_BYTES,
      handleProtocols: (offered: Set<string>) => (offered.has('binary') ? 'binary' : false),
    },
  });
  app.decorateRequest('consoleOf', null);
  const redeem = async (request: FastifyRequest): Promise<void> => {
    if (!request.ws) throw badRequest('This address is for a WebSocket connection.');
    const { token } = request.query as { token?: unknown };
    request.consoleOf = typeof token === 'string' ? services.consoles.redeem(token) : null;
    if (request.consoleOf === null) throw new NightlatchError('unauthorized');
  };
  app.get(
    '/serial',
    { websocket: true, config: { public: true }, preValidation: redeem },
    async (socket: WebSocket, request) => {
      // Made at once: what the client sends meanwhile waits in it.
      const client = createWebSocketStream(socket);
      // Before and after `pipeline` watches it, a broken connection would otherwise end the process.
      client.on('error', () => {});
      try {
        const guest = await openConsole(services, request.consoleOf);
        await carry(guest, client);
      } catch (error) {
        socket.close(INTERNAL_ERROR, describeError(error).slice(0, MAX_REASON));
        client.destroy();
      }
    },
  );
}

async function openConsole({ db, operations }: ComputeServices, id: ServerId | null): Promise<Duplex> {
  const server = id === null ? null : await findServer(db, id);
  if (!server || server.vm_state === 'deleted') throw noServer(id ?? '');
  return await operations.openConsole(server);
}

/** Ends when either side does, the other with it. That one goes away in the middle is how consoles end. */
async function carry(guest: Duplex, client: Duplex): Promise<void> {
  using both = new DisposableStack();
  both.defer(() => guest.destroy());
  both.defer(() => client.destroy());
  try {
    await pipeline(guest, client, guest);
  } catch (error) {
    if (!isDisconnect(error)) throw error;
  }
}

function isDisconnect(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return code === 'ERR_STREAM_PREMATURE_CLOSE' || code === 'ECONNRESET' || code === 'EPIPE';
}
