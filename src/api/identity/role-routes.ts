import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { callerOf } from '#api/auth.ts';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';
import { flagOf } from '#api/identity/fields.ts';
import { identityPolicy } from '#api/identity/policy.ts';
import { presentAssignment, presentList, presentRole } from '#api/identity/presenters.ts';
import {
  assignmentQuery,
  createRoleRequest,
  grantParams,
  idParams,
  listQuery,
  memberParams,
} from '#api/identity/schemas.ts';
import { enforce } from '#api/policy.ts';
import { notFound } from '#core/errors.ts';
import type { ProjectId, UserId } from '#core/ids.ts';
import { findProject } from '#db/projects.ts';
import { findRole, listAssignments, listRoles, listRolesOfUser } from '#db/roles.ts';
import { findUser } from '#db/users.ts';
import { checkGrant, createRole, type Grant, grantRole, removeRole, withdrawRole } from '#identity/builtin/accounts.ts';

/** Roles and who has them where. See Identity API v3, "Roles". */
export function roleRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    await app.register(roles(deps));
    await app.register(grants(deps));
    await app.register(assignments(deps));
  };
}

function roles(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.get('/roles', { schema: { querystring: listQuery } }, async (request) => {
      enforce(identityPolicy, 'identity:list_roles', callerOf(request));
      const base = v3Url(request, deps);
      const found = await listRoles(db, request.query.name);
      return presentList(
        'roles',
        found.map((role) => presentRole(role, base)),
        `${base}/roles`,
      );
    });
    app.post('/roles', { schema: { body: createRoleRequest } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:create_role', callerOf(request));
      const role = await createRole(db, request.body.role.name);
      return reply.status(201).send({ role: presentRole(role, v3Url(request, deps)) });
    });
    app.get('/roles/:id', { schema: { params: idParams } }, async (request) => {
      enforce(identityPolicy, 'identity:get_role', callerOf(request));
      const role = await findRole(db, request.params.id);
      if (!role) throw notFound('Role', request.params.id);
      return { role: presentRole(role, v3Url(request, deps)) };
    });
    app.delete('/roles/:id', { schema: { params: idParams } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:delete_role', callerOf(request));
      await removeRole(db, request.params.id);
      return reply.status(204).send();
    });
  };
}

function grants(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.get('/projects/:project/users/:user/roles', { schema: { params: memberParams } }, async (request) => {
      enforce(identityPolicy, 'identity:list_grants', callerOf(request));
      const { projectId, userId } = grantOf({ ...request.params, role: '' });
      if (!(await findProject(db, projectId))) throw notFound('Project', projectId);
      if (!(await findUser(db, userId))) throw notFound('User', userId);
      const base = v3Url(request, deps);
      const held = await listRolesOfUser(db, userId, projectId);
      const self = `${base}/projects/${projectId}/users/${userId}/roles`;
      return presentList(
        'roles',
        held.map((role) => presentRole(role, base)),
        self,
      );
    });
    const path = '/projects/:project/users/:user/roles/:role';
    const options = { schema: { params: grantParams } };
    // HEAD answers as GET does; both have no body.
    app.get(path, options, async (request, reply) => {
      enforce(identityPolicy, 'identity:check_grant', callerOf(request));
      const grant = grantOf(request.params);
      await checkGrant(db, grant);
      const held = await listRolesOfUser(db, grant.userId, grant.projectId);
      if (!held.some((role) => role.id === grant.roleId)) throw notFound('Role assignment with role', grant.roleId);
      return reply.status(204).send();
    });
    app.put(path, options, async (request, reply) => {
      enforce(identityPolicy, 'identity:create_grant', callerOf(request));
      await grantRole(db, grantOf(request.params));
      return reply.status(204).send();
    });
    app.delete(path, options, async (request, reply) => {
      enforce(identityPolicy, 'identity:revoke_grant', callerOf(request));
      await withdrawRole(db, grantOf(request.params));
      return reply.status(204).send();
    });
  };
}

function assignments(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/role_assignments', { schema: { querystring: assignmentQuery } }, async (request) => {
      const { 'user.id': userId, 'scope.project.id': projectId, 'role.id': roleId, include_names } = request.query;
      const whose = userId === undefined ? {} : { userId };
      enforce(identityPolicy, 'identity:list_role_assignments', callerOf(request), whose);
      const base = v3Url(request, deps);
      const found = await listAssignments(deps.db, {
        ...whose,
        ...(projectId === undefined ? {} : { projectId }),
        ...(roleId === undefined ? {} : { roleId }),
      });
      const withNames = flagOf(include_names).enabled ?? false;
      const shown = found.map((assignment) => presentAssignment(assignment, withNames, base));
      return presentList('role_assignments', shown, `${base}/role_assignments`);
    });
  };
}

function grantOf({ project, user, role }: { project: string; user: string; role: string }): Grant {
  return { projectId: project as ProjectId, userId: user as UserId, roleId: role };
}
