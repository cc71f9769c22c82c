import { fail, type OutputFormat, print, printRows } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { latestAudit, verifyAudit } from '#keys/audit.ts';
import { openState } from '#main/state.ts';

const COLUMNS = ['sequence', 'at', 'event', 'disk', 'secret', 'host', 'reason', 'request'];

/** Prints the newest audit records, oldest first. */
export async function listAudit(options: { config?: string; format: OutputFormat; limit: string }): Promise<number> {
  const limit = Number(options.limit);
  if (!Number.isSafeInteger(limit) || limit < 1) {
    fail(`--limit is '${options.limit}', which is not a whole number above 0.`);
    return 2;
  }
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const records = await latestAudit(state.db, limit);
  const rows = records.map(({ sequence, at, event, facts, hash }) => ({ sequence, at, event, ...facts, hash }));
  printRows(rows, COLUMNS, options.format);
  return 0;
}

/** Walks the whole audit log; exit code 1 when it is not what was written. */
export async function verifyAuditLog(options: { config?: string }): Promise<number> {
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const verdict = await verifyAudit(state.db);
  if (verdict.ok) {
    print(`audit log: ${verdict.records} records, unbroken; head ${verdict.head}`);
    return 0;
  }
  fail(`the audit log is broken at record ${verdict.brokenAt}: ${verdict.reason}.`, [
    `The ${verdict.records} records before it are as they were written. Compare with a head kept elsewhere.`,
  ]);
  return 1;
}
