import type { FastifyError, FastifyRequest } from 'fastify';
import { type ErrorCode, NightlatchError, shorten } from '#core/errors.ts';

/** A failed request, ready for a service's presenter to give it that service's shape. */
export type Failure = {
  readonly status: number;
  /** Reason phrase of the status, as in "Not Found". */
  readonly title: string;
  readonly message: string;
  /** Null for a bug and for what the HTTP layer itself refused. */
  readonly code: ErrorCode | null;
};

const titles: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  409: 'Conflict',
  413: 'Request Entity Too Large',
  415: 'Unsupported Media Type',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  503: 'Service Unavailable',
};

/**
 * What to tell the client of anything thrown: a catalogue error its own sentence, a refused body what was wrong with
 * it, a bug nothing but that it happened. A bug is logged here and nowhere else.
 */
export function failureOf(error: FastifyError | Error, request: FastifyRequest): Failure {
  if (error instanceof NightlatchError) {
    // What is not served (501) is the client's mistake, not ours.
    if (error.status >= 500 && error.code !== 'not-implemented') request.log.error({ err: error }, 'a request failed');
    return failure(error.status, error.message, error.code);
  }
  if ('validation' in error && error.validation) return failure(400, validationSentence(error));
  const status = 'statusCode' in error ? (error.statusCode ?? 500) : 500;
  if (status >= 400 && status < 500) return failure(status, shorten(error.message));
  request.log.error({ err: error }, 'a request failed unexpectedly');
  return failure(500, 'The server has either erred or is incapable of performing the requested operation.');
}

function failure(status: number, message: string, code: ErrorCode | null = null): Failure {
  return { status, title: titles[status] ?? 'Error', message, code };
}

function validationSentence(error: FastifyError): string {
  const [first] = error.validation ?? [];
  if (!first) return shorten(error.message);
  const where = first.instancePath.replaceAll('/', '.').replace(/^\./, '') || error.validationContext || 'body';
  const extra = first.params.additionalProperty ?? first.params.propertyName;
  const named = typeof extra === 'string' ? ` ('${shorten(extra, 64)}')` : '';
  const allowed = Array.isArray(first.params.allowedValues) ? ` (${first.params.allowedValues.join(', ')})` : '';
  const what = `${shorten(first.message ?? 'is invalid')}${named}${allowed}`;
  return `Invalid input for field/attribute ${shorten(where)}: it ${what}.`;
}
