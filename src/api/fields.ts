import { type TSchema, Type } from 'typebox';
import { badRequest } from '#core/errors.ts';

/** The largest of OpenStack's numbers: what its database columns hold. */
export const MAX_INT = 2 ** 31 - 1;

// PostgreSQL text holds no NUL, and half a surrogate pair is no character: both are refused here.
const PRINTABLE = '[^\\p{Cc}\\p{Cs}]';

/** A name: 1 to 255 printable characters, no white space at the ends. */
export const Name = Type.String({ minLength: 1, maxLength: 255, pattern: `^(?!\\s)${PRINTABLE}+(?<!\\s)$` });
/** Free text, line breaks included, or nothing. */
export const Description = Type.Union([
  Type.String({ maxLength: 65_535, pattern: '^[^\\u0000\\p{Cs}]*$' }),
  Type.Null(),
]);
/** A short text without control characters, possibly empty. */
export const ShortText = Type.String({ maxLength: 255, pattern: `^${PRINTABLE}*$` });
/** Keys of metadata and extra specs. */
export const KEY_PATTERN = '^[a-zA-Z0-9\\-_:. ]{1,255}$';

const trueWords = ['True', 'TRUE', 'true', '1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes'] as const;
const falseWords = ['False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no'] as const;

/** A boolean, or one of the words OpenStack takes for one. */
export const BooleanWord = Type.Union([Type.Boolean(), Type.Enum([...trueWords, ...falseWords])]);

export function toBoolean(word: string | boolean): boolean {
  return typeof word === 'boolean' ? word : (trueWords as readonly string[]).includes(word);
}

/** A whole number, or its decimal digits; `toInteger` checks the range of the latter. */
export function integerField(minimum: number, maximum = MAX_INT) {
  return Type.Union([Type.Integer({ minimum, maximum }), Type.String({ pattern: '^[0-9]{1,10}$' })]);
}

/** The number, when it is within the range. @throws bad-request (400). */
export function toInteger(name: string, value: number | string, minimum: number, maximum = MAX_INT): number {
  const number = Number(value);
  if (Number.isSafeInteger(number) && number >= minimum && number <= maximum) return number;
  throw badRequest(`Invalid input for field/attribute ${name}: it must be a whole number of ${minimum} to ${maximum}.`);
}

/** An object that has these fields and no others. */
export function exactly<const Fields extends Record<string, TSchema>>(fields: Fields) {
  return Type.Object(fields, { additionalProperties: false });
}

/** Text that PostgreSQL can hold; an id with other characters names nothing. */
export function isStorableText(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed();
}
