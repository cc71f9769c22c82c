import { randomBytes } from 'node:crypto';

/** The one domain there is. See Identity API v3, "Domains". */
export const DEFAULT_DOMAIN = { id: 'default', name: 'Default' } as const;

/** A domain named in a request: by id or by name. */
export type DomainReference = { readonly id?: string | undefined; readonly name?: string | undefined };

/** Whether the reference means the one domain there is. */
export function isDefaultDomain(domain: DomainReference | undefined): boolean {
  return domain?.id === DEFAULT_DOMAIN.id || (domain?.id === undefined && domain?.name === DEFAULT_DOMAIN.name);
}

/** A new id for a project, user or role: 32 hexadecimal digits, as Keystone makes them. */
export function newIdentityId<Id extends string>(): Id {
  return randomBytes(16).toString('hex') as Id;
}
