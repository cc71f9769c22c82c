import type { FastifyRequest } from 'fastify';
import { has } from '#api/compute/microversions.ts';
import type { Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';

/** Refuses parameters that are not listed, from the microversion that does so on; before, they are ignored. */
export function refuseUnknownParameters(request: FastifyRequest, query: Query, known: readonly string[]): void {
  if (!has(request, 'strict-queries')) return;
  const unknown = query.names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw badRequest(`Additional properties are not allowed ('${shorten(unknown, 64)}' was unexpected)`);
  }
}
