import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { callerOf } from '#api/auth.ts';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';
import { checkDomain, flagOf, parentOf } from '#api/identity/fields.ts';
import { identityPolicy } from '#api/identity/policy.ts';
import { presentList, presentProject, presentUser } from '#api/identity/presenters.ts';
import {
  changePasswordRequest,
  createUserRequest,
  idParams,
  listQuery,
  updateUserRequest,
} from '#api/identity/schemas.ts';
import { enforce } from '#api/policy.ts';
import { notFound } from '#core/errors.ts';
import type { ProjectId, UserId } from '#core/ids.ts';
import { listProjectsOfUser } from '#db/projects.ts';
import { deleteUser, findUser, listUsers } from '#db/users.ts';
import { changeOwnPassword, changeUser, createUser } from '#identity/builtin/accounts.ts';
import { DEFAULT_DOMAIN } from '#identity/builtin/domain.ts';

/** Users. See Identity API v3, "Users". */
export function userRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    await app.register(readingUsers(deps));
    await app.register(changingUsers(deps));
  };
}

function readingUsers(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.get('/users', { schema: { querystring: listQuery } }, async (request) => {
      enforce(identityPolicy, 'identity:list_users', callerOf(request));
      const { name, enabled, domain_id } = request.query;
      const filter = { ...(name === undefined ? {} : { name }), ...flagOf(enabled), ...parentOf(domain_id) };
      const base = v3Url(request, deps);
      const users = await listUsers(db, filter);
      return presentList(
        'users',
        users.map((user) => presentUser(user, base)),
        `${base}/users`,
      );
    });
    app.get('/users/:id', { schema: { params: idParams } }, async (request) => {
      const id = request.params.id as UserId;
      enforce(identityPolicy, 'identity:get_user', callerOf(request), { userId: id });
      const user = await findUser(db, id);
      if (!user) throw notFound('User', id);
      return { user: presentUser(user, v3Url(request, deps)) };
    });
    app.get('/users/:id/projects', { schema: { params: idParams } }, async (request) => {
      const id = request.params.id as UserId;
      enforce(identityPolicy, 'identity:list_user_projects', callerOf(request), { userId: id });
      if (!(await findUser(db, id))) throw notFound('User', id);
      const base = v3Url(request, deps);
      const projects = (await listProjectsOfUser(db, id)).map((project) => presentProject(project, base));
      return presentList('projects', projects, `${base}/users/${id}/projects`);
    });
  };
}

function changingUsers(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.post('/users', { schema: { body: createUserRequest } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:create_user', callerOf(request));
      const { name, password, domain_id, ...fields } = request.body.user;
      checkDomain(domain_id);
      const columns = { ...columnsOf(fields), name, domain_id: DEFAULT_DOMAIN.id };
      const user = await createUser(db, { ...columns, password: password ?? null });
      return reply.status(201).send({ user: presentUser(user, v3Url(request, deps)) });
    });
    app.patch('/users/:id', { schema: { params: idParams, body: updateUserRequest } }, async (request) => {
      enforce(identityPolicy, 'identity:update_user', callerOf(request));
      const { name, password, ...fields } = request.body.user;
      const user = await changeUser(db, request.params.id as UserId, {
        ...columnsOf(fields),
        ...(name === undefined ? {} : { name }),
        ...(password === undefined ? {} : { password }),
      });
      return { user: presentUser(user, v3Url(request, deps)) };
    });
    const changing = { schema: { params: idParams, body: changePasswordRequest } };
    app.post('/users/:id/password', changing, async (request, reply) => {
      const id = request.params.id as UserId;
      enforce(identityPolicy, 'identity:change_password', callerOf(request), { userId: id });
      const { original_password, password } = request.body.user;
      await changeOwnPassword(db, id, original_password, password);
      return reply.status(204).send();
    });
    app.delete('/users/:id', { schema: { params: idParams } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:delete_user', callerOf(request));
      const id = request.params.id as UserId;
      if (!(await deleteUser(db, id))) throw notFound('User', id);
      return reply.status(204).send();
    });
  };
}

type Fields = {
  readonly description?: string | null;
  readonly email?: string | null;
  readonly enabled?: boolean;
  readonly default_project_id?: string | null;
};

/** The columns of the fields that were given; null empties one. */
function columnsOf({ description, email, enabled, default_project_id }: Fields) {
  return {
    ...(description === undefined ? {} : { description: description ?? '' }),
    ...(email === undefined ? {} : { email }),
    ...(enabled === undefined ? {} : { enabled }),
    ...(default_project_id === undefined ? {} : { default_project_id: default_project_id as ProjectId | null }),
  };
}
