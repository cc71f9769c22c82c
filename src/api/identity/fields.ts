import { badRequest, shorten } from '#core/errors.ts';
import { DEFAULT_DOMAIN } from '#identity/builtin/domain.ts';

/** Lets a request pass that means the one domain there is. @throws bad-request. */
export function checkDomain(id: string | null | undefined): void {
  if (id === undefined || id === null || id === DEFAULT_DOMAIN.id) return;
  throw badRequest(`The domain or parent ${shorten(id, 64)} does not exist; there is only '${DEFAULT_DOMAIN.id}'.`);
}

/** The filter `enabled`, where it was given: everything but false words means true, as for Keystone. */
export function flagOf(text: string | undefined): { readonly enabled?: boolean } {
  if (text === undefined) return {};
  return { enabled: !['0', 'f', 'false', 'n', 'no', 'off'].includes(text.toLowerCase()) };
}

/** The filter `domain_id`, where it was given. */
export function parentOf(id: string | undefined): { readonly domainId?: string } {
  return id === undefined ? {} : { domainId: id };
}
