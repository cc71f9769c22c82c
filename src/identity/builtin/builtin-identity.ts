import { createHash, randomBytes } from 'node:crypto';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { findProject, findProjectByName, type Project } from '#db/projects.ts';
import { listRoles, listRolesOfUser, type Role } from '#db/roles.ts';
import { findLiveToken, insertToken, revokeTokens } from '#db/tokens.ts';
import { findUser, findUserByName, type User } from '#db/users.ts';
import { type DomainReference, isDefaultDomain } from '#identity/builtin/domain.ts';
import { verifyPassword } from '#identity/builtin/password.ts';
import { withImplied } from '#identity/builtin/role-names.ts';
import type { Identity, TokenFacts } from '#identity/identity.ts';

/** Default life of a token, as Keystone's `[token] expiration`. */
export const TOKEN_LIFETIME_SECONDS = 3600;

/** A valid token as its holder may see it. */
export type TokenDetails = Omit<TokenFacts, 'roles'> & {
  readonly roles: readonly Role[];
  readonly methods: readonly string[];
  readonly issuedAt: Date;
};

export type UserReference = {
  readonly id?: string | undefined;
  readonly name?: string | undefined;
  readonly domain?: DomainReference | undefined;
};
export type ProjectReference = UserReference;

/** How a caller proves who it is; with several proofs, all must name the same user. */
export type Proof =
  | { readonly method: 'password'; readonly user: UserReference; readonly password: string }
  | { readonly method: 'token'; readonly token: string };

/** What the token shall be good for: a project, nothing in particular, or the user's default project if it has one. */
export type Scope = { readonly project: ProjectReference } | 'unscoped' | 'default';

type Proven = { readonly user: User; readonly methods: readonly string[]; readonly notAfter: Date | null };

/**
 * Keystone's part that clients need, over our own database. A token is 256 random bits, of which only the SHA-256 is
 * stored; what it stands for is looked up at every use.
 */
export class BuiltinIdentity implements Identity {
  readonly #db: Database;
  readonly #lifetimeMs: number;

  constructor(db: Database, options: { readonly tokenLifetimeSeconds?: number } = {}) {
    this.#db = db;
    this.#lifetimeMs = (options.tokenLifetimeSeconds ?? TOKEN_LIFETIME_SECONDS) * 1000;
  }

  async validate(token: string): Promise<TokenFacts | null> {
    const details = await this.describe(token);
    return details && { ...details, roles: details.roles.map((role) => role.name) };
  }

  /** All that a valid token says, or null; `validate` with more of it. */
  async describe(token: string): Promise<TokenDetails | null> {
    const live = await findLiveToken(this.#db, hashOf(token), new Date());
    if (!live) return null;
    const { projectId: id, projectName: name, roles, ...rest } = live;
    return {
      ...rest,
      project: id !== null && name !== null ? { id, name } : null,
      roles: withImplied(roles, await listRoles(this.#db)),
    };
  }

  /**
   * A new token for who proves to be an enabled user with a role in the project asked for. Null for every reason it is
   * not given, so that a caller cannot tell them apart. A token got by a token ends when that one would.
   */
  async issue(proofs: readonly Proof[], scope: Scope): Promise<{ token: string; details: TokenDetails } | null> {
    const proven = await this.#prove(proofs);
    if (!proven) return null;
    const project = await this.#resolveScope(proven.user, scope);
    if (project === 'refused') return null;
    const token = randomBytes(32).toString('base64url');
    const now = new Date();
    await insertToken(this.#db, {
      hash: hashOf(token),
      audit_id: randomBytes(16).toString('base64url'),
      user_id: proven.user.id,
      project_id: project?.id ?? null,
      methods: [...proven.methods],
      issued_at: now,
      expires_at: proven.notAfter ?? new Date(now.getTime() + this.#lifetimeMs),
    });
    const details = await this.describe(token);
    return details && { token, details };
  }

  /** Makes a token invalid for good. *Repeat*: fine. */
  async revoke(token: string): Promise<void> {
    await revokeTokens(this.#db, { hash: hashOf(token) });
  }

  async #prove(proofs: readonly Proof[]): Promise<Proven | null> {
    const proven: Proven[] = [];
    for (const proof of proofs) {
      const one = proof.method === 'password' ? await this.#byPassword(proof) : await this.#byToken(proof.token);
      if (!one) return null;
      proven.push(one);
    }
    const [first, ...others] = proven;
    if (!first || others.some((other) => other.user.id !== first.user.id)) return null;
    return {
      user: first.user,
      methods: [...new Set(proven.flatMap((one) => one.methods))],
      notAfter: proven.find((one) => one.notAfter)?.notAfter ?? null,
    };
  }

  async #byPassword(proof: Extract<Proof, { method: 'password' }>): Promise<Proven | null> {
    const user = await this.#findUser(proof.user);
    const matches = await verifyPassword(proof.password, user?.password_hash ?? null);
    return user?.enabled && matches ? { user, methods: ['password'], notAfter: null } : null;
  }

  async #byToken(token: string): Promise<Proven | null> {
    const details = await this.describe(token);
    const user = details && (await findUser(this.#db, details.userId));
    return details && user && { user, methods: ['token', ...details.methods], notAfter: details.expiresAt };
  }

  async #findUser({ id, name, domain }: UserReference): Promise<User | null> {
    if (id !== undefined) return await findUser(this.#db, id as UserId);
    if (name === undefined || !isDefaultDomain(domain)) return null;
    return await findUserByName(this.#db, name, 'default');
  }

  async #resolveScope(user: User, scope: Scope): Promise<Project | null | 'refused'> {
    if (scope === 'unscoped') return null;
    if (scope === 'default') {
      if (user.default_project_id === null) return null;
      const project = await this.#usableProject(user, { id: user.default_project_id });
      return project;
    }
    return (await this.#usableProject(user, scope.project)) ?? 'refused';
  }

  /** The project, if it is enabled and the user has a role there. */
  async #usableProject(user: User, { id, name, domain }: ProjectReference): Promise<Project | null> {
    let project: Project | null = null;
    if (id !== undefined) project = await findProject(this.#db, id as ProjectId);
    else if (name !== undefined && isDefaultDomain(domain))
      project = await findProjectByName(this.#db, name, 'default');
    if (!project?.enabled) return null;
    const roles = await listRolesOfUser(this.#db, user.id, project.id);
    return roles.length > 0 ? project : null;
  }
}

function hashOf(token: string): Buffer {
  return createHash('sha256').update(token, 'utf8').digest();
}
