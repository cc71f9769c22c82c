import type { ProjectId, UserId } from '#core/ids.ts';

/** What a valid token says of who sends a request. */
export type TokenFacts = {
  readonly userId: UserId;
  readonly userName: string;
  /** Null: the token is not scoped to a project. */
  readonly project: { readonly id: ProjectId; readonly name: string } | null;
  /** Names of the roles held in the project, with those they imply. Empty without a project. */
  readonly roles: readonly string[];
  /** Names the token in logs and audit records without giving it away. */
  readonly auditId: string;
  readonly expiresAt: Date;
};

/** Says who sends a request. Built in, or a Keystone elsewhere. */
export interface Identity {
  /**
   * What the token says, as things stand now: a revoked or expired token, or one of a deleted or disabled user or
   * project, or of a project where the user has no role any more, is null.
   *
   * *Throws* service-unavailable, when it cannot be asked; never a guess.
   */
  validate(token: string): Promise<TokenFacts | null>;
}
