import { NightlatchError } from '#core/errors.ts';

/**
 * Who may do something, as data. `anyone`: every valid token. `admin`: the role admin. `self`: the user concerned, or
 * an admin. `project-reader` and `project-member`: a role in the project concerned, or an admin.
 */
export const policyRules = ['anyone', 'admin', 'self', 'project-reader', 'project-member'] as const;
export type PolicyRule = (typeof policyRules)[number];
export type Policy<Action extends string> = Readonly<Record<Action, PolicyRule>>;

/** What a rule needs to know of the caller. */
export type PolicyCaller = {
  readonly userId: string;
  readonly projectId: string | null;
  readonly roles: readonly string[];
  readonly isAdmin: boolean;
};

/** Whose the thing is that the action concerns. */
export type PolicyTarget = { readonly userId?: string; readonly projectId?: string };

/** Whether the policy lets the caller do this. */
export function isAllowed<Action extends string>(
  policy: Policy<Action>,
  action: Action,
  caller: PolicyCaller,
  target: PolicyTarget = {},
): boolean {
  if (caller.isAdmin) return true;
  const inProject = caller.projectId !== null && caller.projectId === (target.projectId ?? caller.projectId);
  switch (policy[action]) {
    case 'anyone':
      return true;
    case 'admin':
      return false;
    case 'self':
      return target.userId === caller.userId;
    case 'project-reader':
      return inProject && caller.roles.includes('reader');
    case 'project-member':
      return inProject && caller.roles.includes('member');
  }
}

/** Lets the caller pass. @throws forbidden (403) naming the action. */
export function enforce<Action extends string>(
  policy: Policy<Action>,
  action: Action,
  caller: PolicyCaller,
  target: PolicyTarget = {},
): void {
  if (!isAllowed(policy, action, caller, target)) throw new NightlatchError('forbidden', { action });
}
