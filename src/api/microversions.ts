import type { FastifyRequest } from 'fastify';
import { badRequest, NightlatchError } from '#core/errors.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** N of the microversion MAJOR.N the client asked for. */
    microversion: number;
  }
}

/** The header by which all services are asked for a microversion, as in `compute 2.79`. */
export const MICROVERSION_HEADER = 'OpenStack-API-Version';

/** The microversions a service has: from `major`.`min` to `major`.`max`. `service` is its name in the header. */
export type ServedMicroversions = {
  readonly service: string;
  readonly major: number;
  readonly min: number;
  readonly max: number;
};

/**
 * N of the microversion that a request asks for; without any, the least. `header` is that of all services, `legacy` the
 * one that is believed when that names no version of this service.
 *
 * @throws bad-request when it is no version; not-acceptable-version (406) when it is not served.
 * See the OpenStack API guideline "Microversion Specification".
 */
export function microversionFrom(
  header: string | null,
  { service, major, min, max }: ServedMicroversions,
  legacy: string | null = null,
): number {
  const asked = entryFor(service, header) ?? legacy?.trim() ?? null;
  if (asked === null) return min;
  if (asked.toLowerCase() === 'latest') return max;
  const match = /^([1-9]\d{0,5})\.([1-9]\d{0,5}|0)$/.exec(asked);
  if (!match) {
    throw badRequest(
      `API Version String ${asked.slice(0, 64)} is of invalid format. Must be of format MajorNum.MinorNum.`,
    );
  }
  const minor = Number(match[2]);
  if (match[1] === `${major}` && minor >= min && minor <= max) return minor;
  throw new NightlatchError('not-acceptable-version', {
    version: asked,
    min: `${major}.${min}`,
    max: `${major}.${max}`,
  });
}

/** What a method answers in a microversion that does not have it: 404, as for a method that does not exist. */
export function notInMicroversion({ major }: ServedMicroversions, request: FastifyRequest): NightlatchError {
  return new NightlatchError('not-there', {
    reason: `API version ${major}.${request.microversion} is not supported on this method.`,
  });
}

/** A request header as one text, however often it came; null when it did not. */
export function headerText(request: FastifyRequest, name: string): string | null {
  const header = request.headers[name.toLowerCase()];
  return header === undefined ? null : [header].flat().join(',');
}

/** The version named for a service in `compute 2.79, identity 3.1`; of several the last. */
function entryFor(service: string, header: string | null): string | null {
  const entries = (header ?? '').split(',').map((entry) => entry.trim().split(/\s+/));
  return entries.findLast(([name, version]) => name?.toLowerCase() === service && version)?.[1] ?? null;
}
