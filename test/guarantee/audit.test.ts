import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import canonicalize from 'canonicalize';
import { sql, type Transaction } from 'kysely';
import { parseConfig } from '#config/load.ts';
import type { Disk } from '#core/disk.ts';
import { type DiskId, type HostName, newId, type ProjectId, type ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Database } from '#db/database.ts';
import { insertDisks } from '#db/disks.ts';
import type { Schema } from '#db/schema.ts';
import { insertServer } from '#db/servers.ts';
import { type AuditVerdict, appendAudit, verifyAudit } from '#keys/audit.ts';
import { KeyService } from '#keys/key-service.ts';
import type { KeyStore } from '#keys/key-store.ts';
import { liveLeases } from '#keys/leases.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { type RootKey, readRootKey } from '#keys/local/root-key.ts';
import { openState, type State } from '#main/state.ts';

let folder: string;
let configFile: string;
let state: State;
let db: Database;
let root: RootKey;

before(async () => {
  folder = await mkdtemp('/var/tmp/nl-');
  await chmod(folder, 0o711);
  configFile = join(folder, 'nightlatch.toml');
  const config = `[DEFAULT]\nstate_path = "${folder}/s"\n`;
  await writeFile(configFile, config);
  state = await openState(parseConfig(config, configFile), 'serve');
  db = state.db;
  root = await readRootKey(state.paths.rootKey, {});
});
after(async () => {
  root[Symbol.dispose]();
  await state[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const host = 'host-1' as HostName;
const project = newId<ProjectId>();

/** A row of an encrypted disk that has a key, and the disk. */
async function keyedDisk(): Promise<Disk> {
  const serverId = newId<ServerId>();
  const id = newId<DiskId>();
  await insertServer(db, {
    id: serverId,
    project_id: project,
    user_id: newId(),
    name: 'x',
    flavor: JSON.stringify({}) as never,
    metadata: '{}',
    config_drive: false,
    network: 'none',
    reservation_id: 'r-1',
    vm_state: 'stopped',
    power_state: 'shutdown',
    updated_at: new Date(),
  } as never);
  const row = { id, owner_id: serverId, project_id: project, role: 'root', ordinal: 0, size_bytes: 1 } as const;
  const kind = { storage: 'raw', encrypted: true, encryption: 'luks', image_id: null, host } as const;
  await insertDisks(db, [{ ...row, ...kind, state: 'absent', secret_id: null }]);
  const disk: Disk = {
    ...{
      id,
      ownerId: serverId,
      backend: null,
      projectId: project,
      role: 'root',
      ordinal: 0,
      generation: 0,
      standing: 'live',
      sizeBytes: 1,
      storage: 'raw',
    },
    ...{ encryption: 'luks', host, state: 'absent', secretId: null, otherSecretId: null, imageId: null },
  };
  await new KeyService(db, new LocalKeyStore(db, root)).createKey(disk, 'req-make');
  const { secret_id } = await db.selectFrom('disks').select('secret_id').where('id', '=', id).executeTakeFirstOrThrow();
  return { ...disk, state: 'key-stored', secretId: secret_id };
}

/** The local key store, with something that happens whenever a key is about to leave it. */
function storeThat(onGet: () => Promise<void>): KeyStore {
  const store = new LocalKeyStore(db, root);
  return {
    store: (label, secret) => store.store(label, secret),
    has: async () => true,
    find: (label) => store.find(label),
    delete: (id) => store.delete(id),
    get: async (projectId, id) => {
      await onGet();
      return await store.get(projectId, id);
    },
  };
}

async function eventsOf(disk: Disk): Promise<string[]> {
  const found = await db.selectFrom('audit_records').selectAll().orderBy('sequence').execute();
  return found.filter(({ body }) => body.includes(disk.id)).map(({ event }) => event);
}

describe('a key leaves the key store', () => {
  it('only after its release and its lease are durable, also when it then does not leave at all', async () => {
    const disk = await keyedDisk();
    let seen: string[] = [];
    // Another connection of the pool sees only what was committed.
    const store = storeThat(async () => {
      seen = await eventsOf(disk);
      assert.deepEqual((await liveLeases(db)).map((lease) => lease.disk_id).includes(disk.id), true);
      throw new Error('the key store is down');
    });
    const lent = new KeyService(db, store).lend([disk], 'run', 'req-1', async () => assert.fail('a key was lent'));
    await assert.rejects(lent, /the key store is down/);
    assert.deepEqual(seen, ['key-stored', 'lease-opened', 'key-released']);
    assert.deepEqual(await eventsOf(disk), seen);
  });

  it('never, when the release cannot be recorded', async () => {
    const disk = await keyedDisk();
    const before = await eventsOf(disk);
    let asked = 0;
    const store = storeThat(async () => {
      asked++;
    });
    const keys = new KeyService(db, store);
    await sql`create function refuse() returns trigger language plpgsql as $$ begin raise 'log is full'; end $$`.execute(
      db,
    );
    await sql`create trigger refuse before insert on audit_records for each row execute function refuse()`.execute(db);
    try {
      const lent = keys.lend([disk], 'run', 'req-2', async () => assert.fail('a key was lent'));
      await assert.rejects(lent, /log is full/);
      assert.equal(asked, 0);
      assert.ok(!(await liveLeases(db)).some((lease) => lease.disk_id === disk.id), 'a lease was left');
      const made = { ...disk, id: newId<DiskId>(), state: 'absent', secretId: null, otherSecretId: null } as const;
      await assert.rejects(keys.createKey(made, 'req-3'), /log is full/);
    } finally {
      await sql`drop trigger refuse on audit_records`.execute(db);
      await sql`drop function refuse`.execute(db);
    }
    assert.deepEqual(await eventsOf(disk), before);
  });

  it('under a lease that another host cannot share, each release with a record of its own', async () => {
    const disk = await keyedDisk();
    const keys = new KeyService(db, new LocalKeyStore(db, root));
    const lengths: number[] = [];
    for (const request of ['req-4', 'req-5']) {
      await keys.lend([disk], 'run', request, async (lent) => {
        lengths.push(lent.get(disk.id)?.use((bytes) => bytes.length) ?? 0);
      });
    }
    assert.deepEqual(lengths, [64, 64]);
    const elsewhere = { ...disk, host: 'host-2' as HostName };
    await assert.rejects(
      keys.lend([elsewhere], 'run', 'req-6', async () => assert.fail('a key was lent')),
      { code: 'key-unavailable', message: /host host-1 holds its lease/ },
    );
    await keys.close([disk], 'req-7');
    await keys.close([disk], 'req-7');
    await keys.destroyKey(disk, 'req-8');
    const expected = ['key-stored', 'lease-opened', 'key-released', 'key-released', 'lease-closed', 'key-destroyed'];
    assert.deepEqual(await eventsOf(disk), expected);
    await assert.rejects(
      keys.lend([disk], 'run', 'req-9', async () => assert.fail('a key was lent')),
      {
        code: 'key-unavailable',
      },
    );
  });

  it('zeroed when the call it was lent to has ended, well or badly', async () => {
    const disk = await keyedDisk();
    const keys = new KeyService(db, new LocalKeyStore(db, root));
    const kept: Secret[] = [];
    const keep = async (lent: ReadonlyMap<unknown, Secret>) => void kept.push(...lent.values());
    await keys.lend([disk], 'run', 'req-10', keep);
    await assert.rejects(
      keys.lend([disk], 'run', 'req-11', async (lent) => {
        await keep(lent);
        throw new Error('the guest did not start');
      }),
      /did not start/,
    );
    assert.equal(kept.length, 2);
    for (const secret of kept) assert.throws(() => secret.use(() => 0), /after it was zeroed/);
  });
});

describe('the chain', () => {
  it('stays whole under many writers at once', async () => {
    const disk = newId();
    await Promise.all(
      Array.from({ length: 30 }, () =>
        db.transaction().execute((tx) => appendAudit(tx, 'key-stored', { disk, secret: null })),
      ),
    );
    const verdict = await verifyAudit(db);
    assert.ok(verdict.ok, JSON.stringify(verdict));
    assert.ok(verdict.records >= 30);
  });

  type Tx = Transaction<Schema>;
  /** What the verdict is after `tamper`, which is then taken back. */
  async function verdictAfter(tamper: (tx: Tx) => Promise<unknown>): Promise<AuditVerdict> {
    const undo = new Error('undo');
    let verdict: AuditVerdict | null = null;
    const tried = db.transaction().execute(async (tx) => {
      await tamper(tx);
      verdict = await verifyAudit(tx);
      throw undo;
    });
    await assert.rejects(tried, undo);
    assert.ok(verdict);
    return verdict;
  }
  const run = (tx: Tx, query: string) => sql.raw(query).execute(tx);
  const set =
    (columns: string, at = 5) =>
    (tx: Tx) =>
      run(tx, `update audit_records set ${columns} where sequence = ${at}`);
  /** Exchanges columns of the records 4 and 6. */
  const swap = (...columns: string[]) => {
    const assignments = columns.map((name) => `${name} = b.${name}`).join(', ');
    return (tx: Tx) =>
      run(
        tx,
        `update audit_records a set ${assignments} from audit_records b
        where a.sequence in (4, 6) and b.sequence = 10 - a.sequence`,
      );
  };
  const hashed = `sha256(previous_hash || convert_to(body, 'UTF8'))`;

  const found: Record<string, [(tx: Tx) => Promise<unknown>, number]> = {
    'a changed text': [set(`body = replace(body, 'req-', 'rex-')`), 5],
    'a changed text whose hash was made to fit': [
      async (tx) => {
        await set(`body = replace(body, '"sequence":5', '"sequence":5 ')`)(tx);
        await set(`hash = ${hashed}`)(tx);
      },
      6,
    ],
    'a text that is no record any more, hash made to fit': [
      async (tx) => {
        await set(`body = 'nothing'`)(tx);
        await set(`hash = ${hashed}`)(tx);
      },
      5,
    ],
    'a text that is no object, hash made to fit': [
      async (tx) => {
        await set(`body = 'null'`)(tx);
        await set(`hash = ${hashed}`)(tx);
      },
      5,
    ],
    'a changed event': [set(`event = 'lease-closed'`, 1), 1],
    'a changed time': [set(`at = at + interval '1 ms'`), 5],
    'a changed hash': [set(`hash = sha256(hash)`), 5],
    'a changed previous hash': [set(`previous_hash = sha256(hash)`), 5],
    'a removed record in the middle': [(tx) => run(tx, 'delete from audit_records where sequence = 5'), 5],
    'a removed record, the later ones moved up': [
      async (tx) => {
        await run(tx, 'delete from audit_records where sequence = 5');
        await run(tx, 'update audit_records set sequence = -sequence where sequence > 5');
        await run(tx, 'update audit_records set sequence = -sequence - 1 where sequence < 0');
      },
      5,
    ],
    'a removed first record': [(tx) => run(tx, 'delete from audit_records where sequence = 1'), 1],
    'a record before the first': [
      (tx) =>
        run(
          tx,
          `insert into audit_records select 0, at, event, body, previous_hash, hash from audit_records
        where sequence = 1`,
        ),
      1,
    ],
    'a record put in again at the end': [
      (tx) =>
        run(
          tx,
          `insert into audit_records select (select max(sequence) + 1 from audit_records), at, event, body,
        previous_hash, hash from audit_records order by sequence desc limit 1`,
        ),
      -1,
    ],
    'two exchanged texts': [swap('body'), 4],
    'two exchanged records': [swap('at', 'event', 'body', 'hash'), 4],
    'two wholly exchanged records': [swap('at', 'event', 'body', 'previous_hash', 'hash'), 4],
  };
  for (const [what, [tamper, at]] of Object.entries(found)) {
    it(`does not hide ${what}`, async () => {
      const whole = await verifyAudit(db);
      assert.ok(whole.ok && whole.records > 10);
      const verdict = await verdictAfter(tamper);
      assert.ok(!verdict.ok, 'the tampering was not found');
      assert.equal(verdict.brokenAt, at === -1 ? whole.records + 1 : at);
      assert.equal(verdict.records, verdict.brokenAt - 1);
      assert.deepEqual(await verifyAudit(db), whole);
    });
  }

  it('does hide a cut at its end and a rewrite of all that follows, but for the head', async () => {
    const whole = await verifyAudit(db);
    assert.ok(whole.ok);
    const cut = await verdictAfter((tx) => run(tx, `delete from audit_records where sequence > ${whole.records - 2}`));
    assert.ok(cut.ok && cut.records === whole.records - 2 && cut.head !== whole.head);
    const empty = await verdictAfter((tx) => run(tx, 'delete from audit_records'));
    assert.ok(empty.ok && empty.records === 0 && empty.head !== whole.head);
    const rewritten = await verdictAfter((tx) => rewriteFrom(tx, 3));
    assert.ok(rewritten.ok && rewritten.records === whole.records && rewritten.head !== whole.head);
  });

  /** What someone who may write to the database and knows how the chain is made can do. */
  async function rewriteFrom(tx: Tx, first: number): Promise<void> {
    let previous: Buffer | null = null;
    for (const row of await tx.selectFrom('audit_records').selectAll().orderBy('sequence').execute()) {
      if (row.sequence >= first && previous) {
        const body: string = canonicalize({ ...JSON.parse(row.body), facts: { disk: 'another' } }) as string;
        const hash: Buffer = createHash('sha256').update(previous).update(body).digest();
        const change = { body, previous_hash: previous, hash };
        await tx.updateTable('audit_records').set(change).where('sequence', '=', row.sequence).execute();
        previous = hash;
      } else previous = row.hash;
    }
  }
});

describe('nightlatch audit verify', () => {
  async function verify(): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, ['src/cli/main.ts', 'audit', 'verify', '--config', configFile], {
      env: { PATH: process.env.PATH ?? '' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
    return { code: await ended, out, err };
  }

  it('ends with 0 and the head, and with 1 and the broken place', async () => {
    const whole = await verifyAudit(db);
    assert.ok(whole.ok);
    const good = await verify();
    assert.equal(good.code, 0, good.err);
    assert.match(good.out, new RegExp(`^audit log: ${whole.records} records, unbroken; head ${whole.head}\n`));
    await sql`update audit_records set body = body || ' ' where sequence = 7`.execute(db);
    const bad = await verify();
    assert.equal(bad.code, 1);
    assert.equal(bad.out, '');
    assert.match(bad.err, /error: the audit log is broken at record 7: its text was changed\.\n.*hint: The 6 records/s);
    await sql`update audit_records set body = rtrim(body) where sequence = 7`.execute(db);
    assert.equal((await verify()).code, 0);
  });
});
