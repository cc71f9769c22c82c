import type { FastifyRequest } from 'fastify';
import { isStorableText } from '#api/fields.ts';
import { badRequest, shorten } from '#core/errors.ts';

/** A list never holds more than this many items. */
export const MAX_LIMIT = 1000;

/** The query of a list request: every parameter with its values. */
export class Query {
  readonly #values: URLSearchParams;

  constructor(request: FastifyRequest) {
    this.#values = new URLSearchParams(request.url.split('?')[1] ?? '');
  }

  get names(): string[] {
    return [...new Set(this.#values.keys())];
  }

  /** The last value given; null when there is none. @throws bad-request when it cannot be text. */
  text(name: string): string | null {
    return this.all(name).at(-1) ?? null;
  }

  all(name: string): string[] {
    const values = this.#values.getAll(name);
    if (!values.every(isStorableText)) throw invalid(name, 'contains characters that are not text');
    return values;
  }

  /** A whole number from 0. @throws bad-request (400) for anything else. */
  count(name: string): number | null {
    const text = this.text(name);
    if (text === null) return null;
    if (!/^\d{1,10}$/.test(text)) throw invalid(name, `is '${shorten(text, 64)}', not a whole number from 0`);
    return Number(text);
  }

  /** ISO 8601; without a zone it is UTC. @throws bad-request (400) for what is no time. */
  time(name: string): Date | null {
    const text = this.text(name);
    if (text === null) return null;
    const match = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?))?(Z|[+-]\d{2}:?\d{2})?$/.exec(
      text,
    );
    const time = match ? new Date(`${match[1]}T${match[2] ?? '00:00'}${match[3] ?? 'Z'}`) : null;
    if (time === null || Number.isNaN(time.getTime()))
      throw invalid(name, `is '${shorten(text, 64)}', which is no time`);
    return time;
  }

  /** The page size asked for, within the limit. */
  limit(): number {
    return Math.min(this.count('limit') ?? MAX_LIMIT, MAX_LIMIT);
  }
}

/** A parameter of a query that cannot be understood. */
export function invalid(name: string, what: string): Error {
  return badRequest(`Invalid input for query parameters ${name}: it ${what}.`);
}
