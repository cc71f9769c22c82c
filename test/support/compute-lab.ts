import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { blockStorageService } from '#api/block-storage/service.ts';
import { catalogServices } from '#api/catalog.ts';
import { computeService } from '#api/compute/service.ts';
import { identityService } from '#api/identity/service.ts';
import { imageService } from '#api/image/service.ts';
import { buildApi } from '#api/server.ts';
import type { ImageId, ProjectId, UserId } from '#core/ids.ts';
import { newId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import type { Database } from '#db/database.ts';
import { insertProject } from '#db/projects.ts';
import { assignRole, listRoles } from '#db/roles.ts';
import { insertUser } from '#db/users.ts';
import { bootstrapIdentity } from '#identity/builtin/bootstrap.ts';
import { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';
import { hashPassword } from '#identity/builtin/password.ts';
import { FileImageStore } from '#images/builtin/file-image-store.ts';
import { startTestDatabase } from '#test/support/database.ts';
import { RecordedServerOperations } from '#test/support/recorded-server-operations.ts';

export const PASSWORD = 'a password of the tests';

/** Who sends a request in the tests: the admin of a project of its own, two of project one, one of project two. */
export const people = ['admin', 'member', 'reader', 'stranger'] as const;
export type Person = (typeof people)[number];

export type Answer = {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: answers are read as a client does, field by field
  readonly body: any;
  readonly headers: Readonly<Record<string, unknown>>;
};
export type Call = {
  readonly as?: Person | null;
  readonly version?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
};

/** The compute and block storage APIs over a real database, identity and image store; only operations end when a test says so. */
export type ComputeLab = AsyncDisposable & {
  readonly app: FastifyInstance;
  readonly db: Database;
  readonly operations: RecordedServerOperations;
  readonly projects: { readonly one: ProjectId; readonly two: ProjectId };
  readonly tokens: Readonly<Record<Person, string>>;
  /** Sends a request below `/compute/v2.1`, or to a path from `/compute` or `/volume` on. */
  call(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, call?: Call): Promise<Answer>;
};

export async function openComputeLab(): Promise<ComputeLab> {
  await using undo = new AsyncDisposableStack();
  const { db } = undo.use(await startTestDatabase());
  const directory = await mkdtemp('/var/tmp/nightlatch-test-');
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await bootstrapIdentity(db);
  const identity = new BuiltinIdentity(db);
  const images = await FileImageStore.open(db, join(directory, 'images'));
  const one = await addProject(db, 'one');
  const two = await addProject(db, 'two');
  const tokens = {
    admin: await addPerson(db, identity, 'root', 'admin', await addProject(db, 'operators')),
    member: await addPerson(db, identity, 'member', 'member', one),
    reader: await addPerson(db, identity, 'reader', 'reader', one),
    stranger: await addPerson(db, identity, 'stranger', 'member', two),
  };
  const operations = new RecordedServerOperations(db);
  // Volumes are made and changed by the real service only.
  const none = {} as never;
  const blockStorage = {
    volumes: none,
    snapshots: none,
    migrations: none,
    transfers: none,
    backups: none,
    contents: none,
    headers: none,
  };
  const defaultVolumeType = '__DEFAULT__';
  const app = buildApi({
    services: [
      identityService({ db, identity, services: Object.values(catalogServices), region: 'RegionOne', publicUrl: null }),
      imageService({ db, identity, images, publicUrl: null }),
      computeService({ db, identity, images, operations, ...blockStorage, publicUrl: null, defaultVolumeType }),
      blockStorageService({
        ...{ db, identity, images, ...blockStorage, publicUrl: null, defaultVolumeType },
        canForceUpload: false,
      }),
    ],
    publicUrl: null,
  });
  undo.defer(() => app.close());
  await app.ready();
  const owned = undo.move();
  const call: ComputeLab['call'] = async (method, path, options = {}) => {
    const person = options.as === undefined ? 'member' : options.as;
    const request: InjectOptions = {
      method,
      url: /^\/(compute|volume)/.test(path) ? path : `/compute/v2.1${path}`,
      headers: {
        host: 'cloud.example:8774',
        ...(person === null ? {} : { 'x-auth-token': tokens[person] }),
        ...(options.version
          ? { 'openstack-api-version': `${path.startsWith('/volume') ? 'volume' : 'compute'} ${options.version}` }
          : {}),
        ...options.headers,
      },
      ...(options.body === undefined ? {} : { payload: options.body as object }),
    };
    const answer = await app.inject(request);
    const isJson = String(answer.headers['content-type']).startsWith('application/json');
    return {
      status: answer.statusCode,
      body: isJson && answer.payload !== '' ? answer.json() : answer.payload,
      headers: answer.headers,
    };
  };
  return {
    app,
    db,
    operations,
    projects: { one, two },
    tokens,
    call,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** An image row as an upload leaves it; its bytes are of no concern to the compute API. */
export async function addImage(
  db: Database,
  projectId: ProjectId,
  facts: {
    readonly status?: 'active' | 'queued';
    readonly virtualSizeBytes?: number;
    readonly minDiskGib?: number;
    readonly minRamMib?: number;
    readonly properties?: Readonly<Record<string, string>>;
    readonly visibility?: 'private' | 'public';
  } = {},
): Promise<ImageId> {
  const id = newId<ImageId>();
  const size = facts.virtualSizeBytes ?? GIB;
  await db
    .insertInto('images')
    .values({
      id,
      project_id: projectId,
      name: 'debian',
      status: facts.status ?? 'active',
      visibility: facts.visibility ?? 'private',
      disk_format: 'raw',
      container_format: 'bare',
      min_disk_gib: facts.minDiskGib ?? 0,
      min_ram_mib: facts.minRamMib ?? 0,
      size_bytes: size,
      virtual_size_bytes: facts.status === 'queued' ? null : size,
      properties: JSON.stringify(facts.properties ?? {}),
      tags: [],
      updated_at: new Date(),
    })
    .execute();
  return id;
}

async function addProject(db: Database, name: string): Promise<ProjectId> {
  const project = await insertProject(db, { id: newId<ProjectId>(), name });
  if (!project) throw new Error(`project ${name} was there already`);
  return project.id;
}

async function addPerson(
  db: Database,
  identity: BuiltinIdentity,
  name: string,
  roleName: string,
  projectId: ProjectId,
): Promise<string> {
  const user = await insertUser(db, { id: newId<UserId>(), name, password_hash: await hashPassword(PASSWORD) });
  const [role] = await listRoles(db, roleName);
  if (!user || !role) throw new Error(`user ${name} or role ${roleName} is missing`);
  await assignRole(db, user.id, projectId, role.id);
  const proof = { method: 'password', user: { id: user.id }, password: PASSWORD } as const;
  const issued = await identity.issue([proof], { project: { id: projectId } });
  if (!issued) throw new Error(`user ${name} got no token`);
  return issued.token;
}
