import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { callerOf } from '#api/auth.ts';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';
import { checkDomain, flagOf, parentOf } from '#api/identity/fields.ts';
import { identityPolicy } from '#api/identity/policy.ts';
import { presentList, presentProject } from '#api/identity/presenters.ts';
import { createProjectRequest, idParams, listQuery, updateProjectRequest } from '#api/identity/schemas.ts';
import { enforce } from '#api/policy.ts';
import { notFound } from '#core/errors.ts';
import type { ProjectId } from '#core/ids.ts';
import { deleteProject, findProject, listProjects, listProjectsOfUser } from '#db/projects.ts';
import { changeProject, createProject } from '#identity/builtin/accounts.ts';
import { DEFAULT_DOMAIN } from '#identity/builtin/domain.ts';

/** Projects. See Identity API v3, "Projects". */
export function projectRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.get('/projects', { schema: { querystring: listQuery } }, async (request) => {
      enforce(identityPolicy, 'identity:list_projects', callerOf(request));
      const { name, enabled, domain_id } = request.query;
      const filter = { ...(name === undefined ? {} : { name }), ...flagOf(enabled), ...parentOf(domain_id) };
      const base = v3Url(request, deps);
      const projects = await listProjects(db, filter);
      return presentList(
        'projects',
        projects.map((project) => presentProject(project, base)),
        `${base}/projects`,
      );
    });
    app.post('/projects', { schema: { body: createProjectRequest } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:create_project', callerOf(request));
      const { name, description, enabled, domain_id, parent_id } = request.body.project;
      checkDomain(domain_id);
      checkDomain(parent_id);
      const columns = { name, description: description ?? '', enabled: enabled ?? true, domain_id: DEFAULT_DOMAIN.id };
      const project = await createProject(db, columns);
      return reply.status(201).send({ project: presentProject(project, v3Url(request, deps)) });
    });
    app.get('/projects/:id', { schema: { params: idParams } }, async (request) => {
      const caller = callerOf(request);
      const id = request.params.id as ProjectId;
      const own = (await listProjectsOfUser(db, caller.userId)).some((project) => project.id === id);
      enforce(identityPolicy, 'identity:get_project', caller, own ? { userId: caller.userId } : {});
      const project = await findProject(db, id);
      if (!project) throw notFound('Project', id);
      return { project: presentProject(project, v3Url(request, deps)) };
    });
    const changing = { schema: { params: idParams, body: updateProjectRequest } };
    app.patch('/projects/:id', changing, async (request) => {
      enforce(identityPolicy, 'identity:update_project', callerOf(request));
      const { name, description, enabled } = request.body.project;
      const project = await changeProject(db, request.params.id as ProjectId, {
        ...(name === undefined ? {} : { name }),
        ...(description === undefined ? {} : { description: description ?? '' }),
        ...(enabled === undefined ? {} : { enabled }),
      });
      return { project: presentProject(project, v3Url(request, deps)) };
    });
    app.delete('/projects/:id', { schema: { params: idParams } }, async (request, reply) => {
      enforce(identityPolicy, 'identity:delete_project', callerOf(request));
      const id = request.params.id as ProjectId;
      if (!(await deleteProject(db, id))) throw notFound('Project', id);
      return reply.status(204).send();
    });
  };
}
