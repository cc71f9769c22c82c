import type { FastifyInstance, FastifyRequest } from 'fastify';
import { badRequest } from '#core/errors.ts';

/** A body as the JSON it is, or the error that says why it is none. */
export type ParseBody = (
  request: FastifyRequest,
  body: Buffer,
  done: (error: Error | null, value?: unknown) => void,
) => void;

/**
 * Reads JSON of which every string can be stored and sent back: UTF-8, without NUL, which PostgreSQL cannot hold, and
 * without half a surrogate pair, which is no character. No body is no error: clients say `application/json` also where
 * they send none.
 */
export function jsonParser(app: FastifyInstance): ParseBody {
  const parse = app.getDefaultJsonParser('error', 'error');
  return (request, body, done) => {
    const text = decodeUtf8(body);
    if (text === null) return done(badRequest('The body is not UTF-8.'));
    if (text === '') return done(null, undefined);
    void parse(request, text, (error: Error | null, value?: unknown) => {
      if (error) done(error);
      else if (!isStorable(value))
        done(badRequest('The body holds a NUL or half a surrogate pair, which no text has.'));
      else done(null, value);
    });
  };
}

/** Refuses an address of which a part is no text that can be stored. @throws bad-request. */
export function refuseUnstorableAddress(request: FastifyRequest): void {
  if (isStorable(request.params) && isStorable(request.query)) return;
  throw badRequest('The address holds a NUL or half a surrogate pair, which no text has.');
}

function decodeUtf8(bytes: Buffer): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** Without recursion, because a stranger says how deep a body is. */
function isStorable(value: unknown): boolean {
  const waiting: unknown[] = [value];
  while (waiting.length > 0) {
    const next = waiting.pop();
    if (typeof next === 'string' && (next.includes('\0') || !next.isWellFormed())) return false;
    if (Array.isArray(next)) for (const item of next) waiting.push(item);
    else if (typeof next === 'object' && next !== null) {
      for (const [key, item] of Object.entries(next)) waiting.push(key, item);
    }
  }
  return true;
}
