import type { BackendName, HostName, ProjectId } from '#core/ids.ts';
import { newId, type UserId, type VolumeId, type VolumeTypeId } from '#core/ids.ts';
import type { VolumeStatus } from '#core/volume.ts';
import type { Database } from '#db/database.ts';
import { insertVolume, type Volume } from '#db/volumes.ts';
import { type Answer, type Call, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/** The block storage API over a real database; volumes are rows that tests write. */
export type BlockStorageLab = AsyncDisposable &
  Pick<ComputeLab, 'app' | 'db' | 'projects' | 'tokens'> & {
    /** Sends a request below `/volume/v3/PROJECT`, the project being the person's own. */
    call(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, call?: Call): Promise<Answer>;
    /** As `call`, as the admin. */
    admin(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<Answer>;
    /** Sends a request to a path as it is. */
    raw: ComputeLab['call'];
    /** A volume type with all fields as the API answers; the name is new. */
    // biome-ignore lint/suspicious/noExplicitAny: answers are read as a client does, field by field
    addType(fields?: object): Promise<any>;
    addVolume(projectId: ProjectId, facts?: VolumeFacts): Promise<Volume>;
  };

export type VolumeFacts = {
  readonly typeId?: VolumeTypeId;
  readonly sizeGib?: number;
  readonly status?: VolumeStatus;
  readonly host?: HostName;
  readonly backend?: BackendName;
};

export async function openBlockStorageLab(): Promise<BlockStorageLab> {
  const lab = await openComputeLab();
  const { app, db, projects, tokens } = lab;
  const operators = await db
    .selectFrom('projects')
    .select('id')
    .where('name', '=', 'operators')
    .executeTakeFirstOrThrow();
  const ownProject = { admin: operators.id, member: projects.one, reader: projects.one, stranger: projects.two };
  const call: BlockStorageLab['call'] = (method, path, options = {}) =>
    lab.call(method, `/volume/v3/${ownProject[options.as ?? 'member']}${path}`, options);
  const admin: BlockStorageLab['admin'] = (method, path, body) =>
    call(method, path, { as: 'admin', ...(body === undefined ? {} : { body }) });
  let count = 0;
  return {
    ...{ app, db, projects, tokens, call, admin, raw: lab.call },
    addType: async (fields = {}) => {
      const { status, body } = await admin('POST', '/types', { volume_type: { name: `type-${++count}`, ...fields } });
      if (status !== 200) throw new Error(`a type was refused: ${JSON.stringify(body)}`);
      return body.volume_type;
    },
    addVolume: (projectId, facts) => addVolume(db, projectId, facts),
    [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
  };
}

/** A volume's row as its creation leaves it; nothing lies on a host. */
async function addVolume(db: Database, projectId: ProjectId, facts: VolumeFacts = {}): Promise<Volume> {
  return await insertVolume(db, {
    id: newId<VolumeId>(),
    project_id: projectId,
    user_id: newId<UserId>(),
    name: null,
    description: null,
    size_gib: facts.sizeGib ?? 1,
    status: facts.status ?? 'available',
    previous_status: null,
    volume_type_id: facts.typeId ?? null,
    availability_zone: 'nova',
    metadata: '{}',
    source: JSON.stringify({ kind: 'blank' }),
    host: facts.host ?? null,
    backend: facts.backend ?? null,
    migration_status: null,
    operation: null,
    updated_at: new Date(),
  });
}
