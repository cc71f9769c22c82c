import type { Failure } from '#api/failure.ts';

/** The names of failures that Nova and Cinder share; every other status is a `computeFault`. See `Fault` in wsgi.py of both. */
const faultNames: Readonly<Record<number, string>> = {
  400: 'badRequest',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'itemNotFound',
  405: 'badMethod',
  409: 'conflictingRequest',
  413: 'overLimit',
  415: 'badMediaType',
  429: 'overLimit',
  501: 'notImplemented',
  503: 'serviceUnavailable',
};

/** A failure in the shape of Nova and Cinder; a missing or bad token in that of the middleware in front of it. */
export function presentFault(failure: Failure): object {
  const { status, title, message } = failure;
  if (status === 401) return { error: { message, code: status, title } };
  return { [faultNames[status] ?? 'computeFault']: { code: status, message } };
}
