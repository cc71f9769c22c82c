import { NightlatchError } from '#core/errors.ts';
import type { Server } from '#db/servers.ts';
import type { ServerOperations } from '#operations/server-operations.ts';

/** Nova's own limit. */
const MAX_BYTES = 100 * 1024;

/**
 * The last `lines` lines of the serial console, of its last 100 KiB; -1: all of those. Control characters but tab and
 * line ends are left out, as by Nova.
 *
 * *Throws* conflict (409) when the server has no guest yet.
 */
export async function consoleOutput(operations: ServerOperations, server: Server, lines: number): Promise<string> {
  if (server.host === null) {
    throw new NightlatchError('conflict', { reason: `Instance ${server.id} is not ready` });
  }
  const bytes = await operations.consoleLog(server, MAX_BYTES);
  const text = bytes.toString('utf8').replaceAll(/[^\P{Cc}\t\r\n]/gu, '');
  return lines < 0 ? text : lastLines(text, lines);
}

/** A line ends with its line feed; what follows the last one is a line too. */
export function lastLines(text: string, lines: number): string {
  if (lines === 0) return '';
  const all = text.split('\n');
  const isWhole = all.at(-1) === '';
  return all.slice(-(lines + (isWhole ? 1 : 0))).join('\n');
}
