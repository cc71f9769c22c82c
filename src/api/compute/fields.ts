import { isIP } from 'node:net';
import { Type } from 'typebox';
import { KEY_PATTERN, ShortText } from '#api/fields.ts';
import { badRequest } from '#core/errors.ts';

/** Metadata of a server. */
export const Metadata = Type.Record(Type.String({ pattern: KEY_PATTERN }), ShortText, { additionalProperties: false });

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
