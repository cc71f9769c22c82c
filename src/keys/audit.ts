import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { sql } from 'kysely';
import type { Database, Queryable } from '#db/database.ts';

/** What is recorded. A key's release is recorded before the key leaves the key store. */
export const auditEvents = ['key-stored', 'key-released', 'key-destroyed', 'lease-opened', 'lease-closed'] as const;
export type AuditEvent = (typeof auditEvents)[number];
export type AuditFacts = Readonly<Record<string, string | null>>;

/** One entry, as its hash was taken. */
export type AuditRecord = {
  readonly sequence: number;
  readonly at: string;
  readonly event: AuditEvent;
  readonly facts: AuditFacts;
  readonly hash: string;
};

export type AuditVerdict =
  | { readonly ok: true; readonly records: number; readonly head: string }
  | { readonly ok: false; readonly records: number; readonly brokenAt: number; readonly reason: string };

/** The hash before the first record. */
const GENESIS = createHash('sha256').update('nightlatch audit log, version 1').digest();
/** Any constant: writers of the chain wait for each other under this PostgreSQL advisory lock. */
const CHAIN_LOCK = 0x6e6c_6175;
const PAGE = 1000;

/** Something to record. */
export type AuditEntry = { readonly event: AuditEvent; readonly facts: AuditFacts };

/** Appends a record within `db`'s transaction; it is durable when that commits. */
export async function appendAudit(db: Queryable, event: AuditEvent, facts: AuditFacts): Promise<void> {
  await appendAuditEntries(db, [{ event, facts }]);
}

/** Appends records in the order given, within `db`'s transaction; they are durable when that commits. */
export async function appendAuditEntries(db: Queryable, entries: readonly AuditEntry[]): Promise<void> {
  if (entries.length === 0) return;
  await sql`select pg_advisory_xact_lock(${CHAIN_LOCK})`.execute(db);
  const last = await db
    .selectFrom('audit_records')
    .select(['sequence', 'hash'])
    .orderBy('sequence', 'desc')
    .limit(1)
    .executeTakeFirst();
  await db
    .insertInto('audit_records')
    .values(chained(entries, last ?? { sequence: 0, hash: GENESIS }))
    .execute();
}

/**
 * Walks the whole log and says whether every record is the one that was written, in its place.
 *
 * The chain alone cannot tell two things, because its hashes are not keyed: that records were cut off at its end, and
 * that someone who may write to the database made everything from some record on anew. Both change `head`, the hash of
 * the last record: a head that was kept elsewhere, with the number of records then, is what tells.
 */
export async function verifyAudit(db: Database): Promise<AuditVerdict> {
  let previous: Buffer = GENESIS;
  let records = 0;
  for await (const row of rows(db)) {
    const expected = records + 1;
    if (row.sequence !== expected) return broken(records, expected, `record ${expected} is missing`);
    if (!row.previous_hash.equals(previous))
      return broken(records, expected, 'it does not follow the record before it');
    if (!row.hash.equals(chain(previous, row.body))) return broken(records, expected, 'its text was changed');
    const body = parseBody(row.body);
    if (body?.sequence !== row.sequence || body.event !== row.event || body.at !== row.at.toISOString()) {
      return broken(records, expected, 'its columns disagree with its text');
    }
    previous = row.hash;
    records = expected;
  }
  return { ok: true, records, head: previous.toString('hex') };
}

/** The newest `limit` records, oldest first. */
export async function latestAudit(db: Queryable, limit: number): Promise<AuditRecord[]> {
  const found = await db.selectFrom('audit_records').selectAll().orderBy('sequence', 'desc').limit(limit).execute();
  return found.reverse().map((row) => {
    const { sequence, at, event, facts } = JSON.parse(row.body) as Omit<AuditRecord, 'hash'>;
    return { sequence, at, event, facts, hash: row.hash.toString('hex') };
  });
}

/** The rows of new records, each following the one before it. */
function chained(entries: readonly AuditEntry[], last: { readonly sequence: number; readonly hash: Buffer }) {
  const at = new Date();
  let previous = last.hash;
  return entries.map(({ event, facts }, i) => {
    const sequence = last.sequence + 1 + i;
    const body = canonicalize({ sequence, at: at.toISOString(), event, facts }) as string;
    const row = { sequence, at, event, body, previous_hash: previous, hash: chain(previous, body) };
    previous = row.hash;
    return row;
  });
}

function chain(previous: Buffer, body: string): Buffer {
  return createHash('sha256').update(previous).update(body, 'utf8').digest();
}

/** Null when a text whose hash fits is nevertheless no record, as no writer of ours makes one. */
function parseBody(text: string): { sequence?: unknown; at?: unknown; event?: unknown } | null {
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === 'object' ? body : null;
  } catch {
    return null;
  }
}

function broken(records: number, brokenAt: number, reason: string): AuditVerdict {
  return { ok: false, records, brokenAt, reason };
}

async function* rows(db: Database) {
  for (let next = Number.MIN_SAFE_INTEGER; ; ) {
    const page = await db
      .selectFrom('audit_records')
      .selectAll()
      .where('sequence', '>=', next)
      .orderBy('sequence')
      .limit(PAGE)
      .execute();
    yield* page;
    if (page.length < PAGE) return;
    next = (page.at(-1)?.sequence ?? next) + 1;
  }
}
