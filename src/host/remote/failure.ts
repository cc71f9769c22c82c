import { describeError, type ErrorDetails, errorCodes, NightlatchError } from '#core/errors.ts';

/** A failure on its way from a host: a catalogue error by its code and details; of a bug, its message. */
type Failure = { readonly code: string | null; readonly details: ErrorDetails; readonly message: string };

export const FAILED_STATUS = 500;

export function encodeFailure(error: unknown): string {
  const known = error instanceof NightlatchError;
  const failure: Failure = {
    code: known ? error.code : null,
    details: known ? error.details : {},
    message: describeError(error),
  };
  return JSON.stringify(failure);
}

/** The same error as on the host; what is not in this side's catalogue is a bug. */
export function decodeFailure(text: string, host: string): Error {
  const { code, details, message } = JSON.parse(text) as Failure;
  const known = errorCodes.find((each) => each === code);
  return known ? new NightlatchError(known, details) : new Error(`host ${host} failed: ${message}`);
}
