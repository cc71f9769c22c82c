import type { Role } from '#db/roles.ts';

/** The roles that policy speaks of; they cannot be deleted. See Keystone's "Default Roles". */
export const builtinRoles = ['admin', 'member', 'reader'] as const;

/** What a role brings with it. */
const implied: Readonly<Record<string, readonly string[]>> = { admin: ['member', 'reader'], member: ['reader'] };

/** The roles given, with those they imply. `all` is every role that exists, to find the implied ones' ids. */
export function withImplied(given: readonly Role[], all: readonly Role[]): Role[] {
  const names = new Set(given.flatMap((role) => [role.name, ...(implied[role.name] ?? [])]));
  const extra = all.filter((role) => names.has(role.name) && !given.some((other) => other.name === role.name));
  return [...given, ...extra];
}

export function isBuiltinRole(name: string): boolean {
  return (builtinRoles as readonly string[]).includes(name);
}
