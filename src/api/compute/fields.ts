import { isIP } from 'node:net';
import { type TSchema, Type } from 'typebox';
import { badRequest } from '#core/errors.ts';

/** The largest of Nova's numbers: what its database columns hold. */
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
/** Metadata of a server. */
export const Metadata = Type.Record(Type.String({ pattern: KEY_PATTERN }), ShortText, { additionalProperties: false });

const trueWords = ['True', 'TRUE', 'true', '1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes'] as const;
const falseWords = ['False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no'] as const;

/** A boolean, or one of the words Nova takes for one. */
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

/** An IP address as it is stored; null: none. @throws bad-request (400) when it is not one of its family. */
export function addressFrom(name: 'accessIPv4' | 'accessIPv6', text: string | null | undefined): string | null {
  if (!text) return null;
  if (isIP(text) === (name === 'accessIPv4' ? 4 : 6)) return text;
  throw badRequest(`Invalid input for field/attribute ${name}: '${text}' is no such address.`);
}

/** User data as it is stored; null: none. @throws bad-request (400) when it is not base64. */
export function userDataFrom(asked: string | null | undefined): string | null {
  const text = asked?.replaceAll(/\s/g, '') ?? '';
  if (text === '') return null;
  const isBase64 = /^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 === 0;
  if (!isBase64) throw badRequest('Invalid input for field/attribute user_data: it is not base64.');
  return text;
}

/** An object that has these fields and no others. */
export function exactly<const Fields extends Record<string, TSchema>>(fields: Fields) {
  return Type.Object(fields, { additionalProperties: false });
}

/** Text that PostgreSQL can hold; an id with other characters names nothing. */
export function isStorableText(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed();
}
