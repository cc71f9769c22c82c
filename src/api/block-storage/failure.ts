import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Failure } from '#api/failure.ts';
import { presentFault } from '#api/fault.ts';

/** A failure in Cinder's shape. What is beyond a quota says that waiting is of no use (`Retry-After: 0`). */
export function presentFailure(failure: Failure, _request: FastifyRequest, reply: FastifyReply): object {
  if (failure.status !== 413) return presentFault(failure);
  reply.header('retry-after', '0');
  return { overLimit: { code: failure.status, message: failure.message, retryAfter: '0' } };
}
