import { NightlatchError } from '#core/errors.ts';
import { newId, type ProjectId, type SecretId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Database } from '#db/database.ts';
import type { KeyLabel, KeyStore } from '#keys/key-store.ts';
import type { RootKey } from '#keys/local/root-key.ts';
import { unwrap, wrap } from '#keys/local/wrap.ts';

/** Secrets in our own database, each wrapped by a root key that is never in it. */
export class LocalKeyStore implements KeyStore {
  readonly #db: Database;
  readonly #root: RootKey;

  constructor(db: Database, root: RootKey) {
    this.#db = db;
    this.#root = root;
  }

  /**
   * The store with its root key checked against what is stored, so that a wrong one is noticed before the first guest
   * is to start. @throws bad-request when secrets were stored under another root key.
   */
  static async open(db: Database, root: RootKey): Promise<LocalKeyStore> {
    const others = await db
      .selectFrom('secrets')
      .select(['root_key_id', (eb) => eb.fn.countAll<number>().as('secrets')])
      .where('root_key_id', '<>', root.id)
      .groupBy('root_key_id')
      .executeTakeFirst();
    if (!others) return new LocalKeyStore(db, root);
    throw new NightlatchError('bad-request', {
      reason:
        `The root key ${root.id} was refused: ${others.secrets} secrets are stored under root key ${others.root_key_id} ` +
        'and would not open. Bring that root key back.',
    });
  }

  async store({ projectId, label, name }: KeyLabel, secret: Secret): Promise<SecretId> {
    const id = newId<SecretId>();
    const { nonce, wrapped } = wrap(this.#root.key, { id, projectId }, secret);
    await this.#db
      .insertInto('secrets')
      .values({ id, project_id: projectId, label, name, nonce, wrapped, root_key_id: this.#root.id })
      .onConflict((conflict) => conflict.column('label').doNothing())
      .execute();
    const stored = await this.find(label);
    if (stored === null) throw new Error(`secret ${label} was deleted while it was being stored`);
    return stored;
  }

  async get(projectId: ProjectId, id: SecretId): Promise<Secret> {
    const row = await this.#db
      .selectFrom('secrets')
      .selectAll()
      .where('id', '=', id)
      .where('project_id', '=', projectId)
      .executeTakeFirst();
    if (!row) throw new NightlatchError('key-unavailable', { disk: '', reason: `there is no secret ${id}` });
    if (row.root_key_id !== this.#root.id) throw corrupt(id, `it was stored under root key ${row.root_key_id}`);
    try {
      return unwrap(this.#root.key, { id, projectId }, row);
    } catch (error) {
      throw corrupt(id, 'its stored bytes were changed', error);
    }
  }

  async has(projectId: ProjectId, id: SecretId): Promise<boolean> {
    const query = this.#db.selectFrom('secrets').select('id').where('id', '=', id).where('project_id', '=', projectId);
    return (await query.executeTakeFirst()) !== undefined;
  }

  async find(label: string): Promise<SecretId | null> {
    const row = await this.#db.selectFrom('secrets').select('id').where('label', '=', label).executeTakeFirst();
    return row?.id ?? null;
  }

  async delete(id: SecretId): Promise<void> {
    await this.#db.deleteFrom('secrets').where('id', '=', id).execute();
  }
}

function corrupt(secret: SecretId, reason: string, cause?: unknown): NightlatchError {
  return new NightlatchError('key-corrupt', { secret, reason }, { cause });
}
