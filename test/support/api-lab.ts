import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { catalogServices } from '#api/catalog.ts';
import { identityService } from '#api/identity/service.ts';
import { imageService } from '#api/image/service.ts';
import { type ApiService, buildApi } from '#api/server.ts';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { listRoles } from '#db/roles.ts';
import { createProject, createUser, grantRole } from '#identity/builtin/accounts.ts';
import { type AdminCredentials, bootstrapIdentity } from '#identity/builtin/bootstrap.ts';
import { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';
import { FileImageStore } from '#images/builtin/file-image-store.ts';
import { startTestDatabase } from '#test/support/database.ts';

/** A user with a token for the one project it has a role in. */
export type Person = {
  readonly name: string;
  readonly password: string;
  readonly userId: UserId;
  readonly projectId: ProjectId;
  readonly projectName: string;
  readonly token: string;
};

export type Sent = {
  readonly token?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
};

/** The identity and image services over a real PostgreSQL, with an admin, and members and a reader of two projects. */
export type ApiLab = AsyncDisposable & {
  readonly app: FastifyInstance;
  readonly db: Database;
  readonly identity: BuiltinIdentity;
  readonly images: FileImageStore;
  readonly imageDirectory: string;
  readonly adminCredentials: AdminCredentials;
  readonly admin: Person;
  /** Member of project `one`. */
  readonly alice: Person;
  /** Reader in project `one`. */
  readonly rita: Person;
  /** Member of project `two`. */
  readonly bob: Person;
  /** Every route there is, as `METHOD /path/:parameter`; HEAD left out. */
  readonly routes: readonly string[];
  call(method: string, url: string, sent?: Sent): Promise<LightMyRequestResponse>;
  addPerson(name: string, projectName: string, role: string): Promise<Person>;
};

export type LabOptions = { readonly imageDirectory?: string; readonly sizeCapBytes?: number };

export async function startApiLab(options: LabOptions = {}): Promise<ApiLab> {
  await using undo = new AsyncDisposableStack();
  const { db } = undo.use(await startTestDatabase());
  const temporary = await mkdtemp('/var/tmp/nightlatch-images-');
  undo.defer(() => rm(temporary, { recursive: true, force: true }));
  const imageDirectory = options.imageDirectory ?? join(temporary, 'images');
  const { sizeCapBytes } = options;
  const images = await FileImageStore.open(db, imageDirectory, sizeCapBytes === undefined ? {} : { sizeCapBytes });
  const identity = new BuiltinIdentity(db);
  const adminCredentials = await bootstrapIdentity(db);
  if (!adminCredentials) throw new Error('an empty database had an admin');
  const routes: string[] = [];
  const catalog = [catalogServices.identity, catalogServices.image];
  const services = [
    identityService({ db, identity, services: catalog, region: 'RegionOne', publicUrl: null }),
    imageService({ db, identity, images, publicUrl: null }),
  ].map((service) => recordRoutes(service, routes));
  const app = buildApi({ services, publicUrl: null });
  undo.defer(() => app.close());
  await app.ready();
  const call: ApiLab['call'] = (method, url, sent = {}) => send(app, method, url, sent);
  const addPerson: ApiLab['addPerson'] = (name, project, role) => createPerson(db, identity, name, project, role);
  const people = {
    admin: await logIn(identity, adminCredentials.userName, adminCredentials.password, adminCredentials.projectName),
    alice: await addPerson('alice', 'one', 'member'),
    rita: await addPerson('rita', 'one', 'reader'),
    bob: await addPerson('bob', 'two', 'member'),
  };
  const owned = undo.move();
  return {
    ...people,
    ...{ app, db, identity, images, imageDirectory, adminCredentials, routes, call, addPerson },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function send(app: FastifyInstance, method: string, url: string, sent: Sent): Promise<LightMyRequestResponse> {
  const isJson = sent.body !== undefined && typeof sent.body !== 'string' && !Buffer.isBuffer(sent.body);
  return app.inject({
    method: method as 'GET',
    url,
    headers: {
      accept: 'application/json',
      ...(sent.body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(sent.token === undefined ? {} : { 'x-auth-token': sent.token }),
      ...sent.headers,
    },
    ...(sent.body === undefined
      ? {}
      : { payload: isJson ? JSON.stringify(sent.body) : (sent.body as string | Buffer) }),
  });
}

function recordRoutes(service: ApiService, routes: string[]): ApiService {
  return {
    ...service,
    routes: async (app, options) => {
      app.addHook('onRoute', (route) => {
        for (const method of [route.method].flat()) if (method !== 'HEAD') routes.push(`${method} ${route.url}`);
      });
      await service.routes(app, options);
    },
  };
}

async function createPerson(
  db: Database,
  identity: BuiltinIdentity,
  name: string,
  projectName: string,
  roleName: string,
): Promise<Person> {
  const password = `password of ${name}`;
  const existing = await db.selectFrom('projects').select('id').where('name', '=', projectName).executeTakeFirst();
  const project =
    existing ?? (await createProject(db, { name: projectName, description: '', enabled: true, domain_id: 'default' }));
  const user = await createUser(db, { name, password });
  const [role] = await listRoles(db, roleName);
  if (!role) throw new Error(`no role ${roleName}`);
  await grantRole(db, { userId: user.id, projectId: project.id, roleId: role.id });
  return await logIn(identity, name, password, projectName);
}

/** A person with a new token. */
export async function logIn(
  identity: BuiltinIdentity,
  name: string,
  password: string,
  projectName: string,
): Promise<Person> {
  const domain = { id: 'default' };
  const issued = await identity.issue([{ method: 'password', user: { name, domain }, password }], {
    project: { name: projectName, domain },
  });
  const project = issued?.details.project;
  if (!issued || !project) throw new Error(`${name} cannot log in`);
  return {
    name,
    password,
    userId: issued.details.userId,
    projectId: project.id,
    projectName: project.name,
    token: issued.token,
  };
}
