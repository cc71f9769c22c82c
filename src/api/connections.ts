import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyRequest } from 'fastify';

/** Reading what is dropped anyway ends here. */
const DRAIN_TIMEOUT_MS = 10_000;

/** Statuses of what Node's parser refuses, by its error codes; anything else is a request it cannot read. */
const statuses: Readonly<Record<string, number>> = {
  HPE_HEADER_OVERFLOW: 431,
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 413,
  ERR_HTTP_REQUEST_TIMEOUT: 408,
};
const messages: Readonly<Record<number, string>> = {
  400: 'The request is not HTTP as it can be read here.',
  408: 'The request did not arrive in time.',
  413: 'The request is too large.',
  431: 'The headers of the request are too large.',
};

/**
 * Answers what is no HTTP request, in the shape of failures that no service could be found for, and closes the
 * connection, because nobody knows where the next request would start.
 */
export function answerUnreadable(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const code = statuses[error.code ?? ''] ?? 400;
  const title = STATUS_CODES[code] ?? 'Error';
  const body = JSON.stringify({ error: { code, title, message: messages[code] } });
  const head = [
    `HTTP/1.1 ${code} ${title}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    `x-openstack-request-id: req-${randomUUID()}`,
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  // What still comes is read and dropped: closing on it would make the answer unreadable for who is still sending.
  socket.resume();
}

/**
 * Reads the rest of a body that was refused for its size and drops it, for a while: a client that is still sending
 * would not see the answer if the connection were closed on it.
 */
export async function dropRest({ raw }: FastifyRequest): Promise<void> {
  if (raw.readableEnded || raw.destroyed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  raw.once('close', resolve).once('end', resolve).once('error', resolve).resume();
  const late = new AbortController();
  await Promise.race([promise, sleep(DRAIN_TIMEOUT_MS, null, { ref: false, signal: late.signal })]);
  late.abort();
}
