import { Type } from 'typebox';
import { badRequest } from '#core/errors.ts';

/*
 * Fields as Cinder checks them; what all services share is in #api/fields.ts.
 * See parameter_types.py in cinder/api/validation.
 */

// PostgreSQL text holds no NUL, and half a surrogate pair is no character: both are refused here.
const PRINTABLE = '[^\\p{C}\\p{Zl}\\p{Zp}]';

/** A description: printable characters, or nothing. */
export const Description = Type.Union([Type.String({ maxLength: 255, pattern: `^${PRINTABLE}*$` }), Type.Null()]);
/** A name that may be left empty. */
export const NullableName = Type.Union([Type.String({ maxLength: 255 }), Type.Null()]);
export const NullableText = NullableName;

const trueWords = ['True', 'TRUE', 'true', '1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes', 'y', 't'] as const;
const falseWords = ['False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no', 'n', 'f'] as const;

/** A boolean, or one of the words Cinder takes for one. */
export const BooleanWord = Type.Union([Type.Boolean(), Type.Enum([...trueWords, ...falseWords])]);

export function toBoolean(word: string | boolean): boolean {
  return typeof word === 'boolean' ? word : (trueWords as readonly string[]).includes(word);
}

/** Keys of metadata, and of extra specs given with their type. */
export const METADATA_KEY = '^[a-zA-Z0-9\\-_:. /]{1,255}$';
/** Metadata of volumes, snapshots and backups. */
export const Metadata = Type.Record(Type.String({ pattern: METADATA_KEY }), Type.String({ maxLength: 255 }), {
  additionalProperties: false,
});

/** A boolean parameter of a query. @throws bad-request (400) for what is none. */
export function flagFrom(name: string, text: string | null): boolean {
  const word = text?.trim().toLowerCase() ?? 'false';
  if (['1', 't', 'true', 'on', 'y', 'yes'].includes(word)) return true;
  if (['0', 'f', 'false', 'off', 'n', 'no'].includes(word)) return false;
  throw badRequest(`Value '${word.slice(0, 64)}' for query parameter ${name} is no boolean.`);
}
