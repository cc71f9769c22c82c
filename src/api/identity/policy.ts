import type { Policy } from '#api/policy.ts';

/** Who may do what in the identity API, by Keystone's names of the actions. */
export const identityPolicy = {
  'identity:validate_token': 'self',
  'identity:revoke_token': 'self',
  'identity:list_projects': 'admin',
  'identity:get_project': 'self',
  'identity:create_project': 'admin',
  'identity:update_project': 'admin',
  'identity:delete_project': 'admin',
  'identity:list_users': 'admin',
  'identity:get_user': 'self',
  'identity:create_user': 'admin',
  'identity:update_user': 'admin',
  'identity:delete_user': 'admin',
  'identity:change_password': 'self',
  'identity:list_user_projects': 'self',
  'identity:list_roles': 'admin',
  'identity:get_role': 'admin',
  'identity:create_role': 'admin',
  'identity:delete_role': 'admin',
  'identity:list_role_assignments': 'self',
  'identity:list_grants': 'admin',
  'identity:check_grant': 'admin',
  'identity:create_grant': 'admin',
  'identity:revoke_grant': 'admin',
  'identity:list_domains': 'admin',
  'identity:get_domain': 'anyone',
  'identity:list_services': 'admin',
  'identity:get_service': 'admin',
  'identity:list_endpoints': 'admin',
  'identity:get_endpoint': 'admin',
  'identity:list_regions': 'anyone',
  'identity:get_region': 'anyone',
} as const satisfies Policy<string>;

export type IdentityAction = keyof typeof identityPolicy;
