import type { CatalogEntry } from '#api/catalog.ts';
import type { Failure } from '#api/failure.ts';
import type { Project } from '#db/projects.ts';
import type { Assignment, Role } from '#db/roles.ts';
import type { User } from '#db/users.ts';
import type { TokenDetails } from '#identity/builtin/builtin-identity.ts';
import { DEFAULT_DOMAIN } from '#identity/builtin/domain.ts';

/** Keystone's error body. */
export function presentIdentityFailure(failure: Failure): object {
  return { error: { code: failure.status, title: failure.title, message: failure.message } };
}

/** Keystone's form of a time: UTC with six decimals. */
export function presentTime(time: Date): string {
  return time.toISOString().replace('Z', '000Z');
}

export function presentToken(token: TokenDetails, catalog: readonly CatalogEntry[] | null): object {
  const scope = token.project && {
    project: { id: token.project.id, name: token.project.name, domain: DEFAULT_DOMAIN },
    is_domain: false,
    roles: token.roles.map(({ id, name }) => ({ id, name })),
    ...(catalog ? { catalog } : {}),
  };
  return {
    token: {
      methods: token.methods,
      user: { id: token.userId, name: token.userName, domain: DEFAULT_DOMAIN, password_expires_at: null },
      audit_ids: [token.auditId],
      issued_at: presentTime(token.issuedAt),
      expires_at: presentTime(token.expiresAt),
      ...scope,
    },
  };
}

export function presentProject(project: Project, base: string): object {
  return {
    id: project.id,
    name: project.name,
    description: project.description,
    enabled: project.enabled,
    domain_id: project.domain_id,
    parent_id: project.domain_id,
    is_domain: false,
    options: {},
    tags: [],
    links: { self: `${base}/projects/${project.id}` },
  };
}

export function presentUser(user: User, base: string): object {
  return {
    id: user.id,
    name: user.name,
    description: user.description,
    ...(user.email === null ? {} : { email: user.email }),
    ...(user.default_project_id === null ? {} : { default_project_id: user.default_project_id }),
    enabled: user.enabled,
    domain_id: user.domain_id,
    password_expires_at: null,
    options: {},
    links: { self: `${base}/users/${user.id}` },
  };
}

export function presentRole(role: Role, base: string): object {
  const links = { self: `${base}/roles/${role.id}` };
  return { id: role.id, name: role.name, domain_id: null, description: null, options: {}, links };
}

export function presentDomain(base: string): object {
  return {
    ...DEFAULT_DOMAIN,
    description: 'The only domain',
    enabled: true,
    options: {},
    tags: [],
    links: { self: `${base}/domains/${DEFAULT_DOMAIN.id}` },
  };
}

export function presentAssignment(assignment: Assignment, includeNames: boolean, base: string): object {
  const { userId, projectId, roleId } = assignment;
  const links = { assignment: `${base}/projects/${projectId}/users/${userId}/roles/${roleId}` };
  if (!includeNames) {
    return { role: { id: roleId }, user: { id: userId }, scope: { project: { id: projectId } }, links };
  }
  return {
    role: { id: roleId, name: assignment.roleName },
    user: { id: userId, name: assignment.userName, domain: DEFAULT_DOMAIN },
    scope: { project: { id: projectId, name: assignment.projectName, domain: DEFAULT_DOMAIN } },
    links,
  };
}

/** A list with the links that Keystone puts beside it; everything is on one page. */
export function presentList(key: string, items: readonly object[], self: string): object {
  return { [key]: items, links: { next: null, previous: null, self } };
}
