import { Duplex } from 'node:stream';
import type { HostName, ImageId, ServerId } from '#core/ids.ts';
import { newId } from '#core/ids.ts';
import type { ServerAction } from '#core/server.ts';
import type { Database } from '#db/database.ts';
import {
  claimServer,
  findServer,
  insertServer,
  releaseServer,
  type Server,
  type ServerChange,
  type ServerReplacement,
} from '#db/servers.ts';
import type { Particulars } from '#operations/context.ts';
import { serverColumns } from '#operations/durable-server-operations.ts';
import type { Outcome } from '#operations/engine.ts';
import type { ImageRequest, Requester, ServerOperations, ServerRequest } from '#operations/server-operations.ts';

/**
 * ServerOperations without a host: rows are written and claimed as the real one does, and an operation ends when the
 * test says so. The real one is tested with real guests elsewhere.
 */
export class RecordedServerOperations implements ServerOperations {
  readonly requests: ServerRequest[] = [];
  readonly acts: { readonly action: ServerAction; readonly serverId: ServerId; readonly particulars?: Particulars }[] =
    [];
  readonly images: ImageRequest[] = [];
  consoleText = '';
  /** Makes the next creations fail, after so many. */
  failAfter: number | null = null;
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  async create(request: ServerRequest, requester: Requester): Promise<Server> {
    if (this.failAfter !== null && this.failAfter-- <= 0) throw new Error('the disk of the database is full');
    this.requests.push(request);
    return await insertServer(this.#db, {
      id: newId<ServerId>(),
      ...serverColumns(request, requester),
      vm_state: 'building',
      task_state: 'scheduling',
      power_state: 'nostate',
      host: null,
      fault: null,
      operation: JSON.stringify({ id: 'create', name: 'create-server', input: null }),
      updated_at: new Date(),
    });
  }

  async act(
    action: ServerAction,
    serverId: ServerId,
    _requester: Requester,
    particulars?: Particulars,
    replacement: ServerReplacement | null = null,
  ): Promise<void> {
    await claimServer(this.#db, serverId, action, () => ({ id: action, name: action, input: null }), replacement);
    this.acts.push({ action, serverId, ...(particulars ? { particulars } : {}) });
  }

  async createImage(serverId: ServerId, request: ImageRequest, requester: Requester): Promise<ImageId> {
    await this.act('create-image', serverId, requester);
    this.images.push(request);
    return newId<ImageId>();
  }

  readonly ended = new Map<string, Outcome>();

  async outcomes(): Promise<ReadonlyMap<string, Outcome>> {
    return this.ended;
  }

  async consoleLog(_server: Server, bytes: number): Promise<Buffer> {
    return Buffer.from(this.consoleText).subarray(-bytes);
  }

  /** Says everything back. */
  async openConsole(_server: Server): Promise<Duplex> {
    return new Duplex({
      read() {},
      write(chunk, _encoding, done) {
        this.push(chunk);
        done();
      },
      final(done) {
        this.push(null);
        done();
      },
    });
  }

  /** Ends the operation that is under way, in this state. */
  async end(id: string, change: ServerChange & { fault?: Server['fault'] }): Promise<void> {
    const server = await findServer(this.#db, id as ServerId);
    await releaseServer(this.#db, id as ServerId, server?.operation?.id ?? '', change);
  }

  /** Ends the creation well. */
  async run(id: string): Promise<void> {
    await this.end(id, {
      vm_state: 'active',
      power_state: 'running',
      host: 'host-1' as HostName,
      launched_at: new Date(),
    });
  }
}
