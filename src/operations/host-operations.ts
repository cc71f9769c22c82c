import type { HostName } from '#core/ids.ts';

/** What the API may set going on hosts. */
export interface HostOperations {
  /**
   * The panic button: ends every guest on the host at once and locks everything. On return no guest runs there, no disk is
   * unlocked, no lease is open, and every operation that was under way has ended, a creation included; new ones may begin.
   * `tell` is given a line a step. *Repeat*: fine; one that comes while another is under way waits for that one.
   * *Throws* host-not-locked, naming what is left; nothing new is unlocked on the host then, until a repeat succeeds.
   */
  lock(host: HostName, requestId: string, tell: (line: string) => void): Promise<void>;
}
