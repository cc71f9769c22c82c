/** Keeps objects by name: letters, digits, `-`, `.` and `/` between parts. What is in them is ciphertext, or a list of it. */
export interface BackupStore {
  /** On return the object is durable. *Repeat*: replaces it. *Throws* disk-full; what any call throws. */
  put(name: string, bytes: Buffer): Promise<void>;

  /** *Throws* backup-damaged when there is no such object; what any call throws. */
  get(name: string): Promise<Buffer>;

  /**
   * Removes every object below this name. *Repeat*: fine. Any call *throws* backup-store-unavailable when the store does not
   * answer, and backup-store-refused when it says no.
   */
  deleteAll(folder: string): Promise<void>;
}

const NAME = /^[a-z0-9-]+(\/[a-z0-9.-]+)*$/;

/** Refuses a name that must not become a path or a key: a bug. */
export function checkObjectName(name: string): string {
  if (!NAME.test(name) || name.includes('..')) throw new Error(`${name} is no name of a backup object`);
  return name;
}
