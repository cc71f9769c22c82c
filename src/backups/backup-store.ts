import type { Readable } from 'node:stream';

/** Keeps objects by name: letters, digits, `-`, `.` and `/` between parts. What is in them is ciphertext, or a list of it. */
export interface BackupStore {
  /** On return the object is durable. *Repeat*: replaces it. *Throws* disk-full; service-unavailable. */
  put(name: string, bytes: Buffer): Promise<void>;

  /** *Throws* backup-damaged when there is no such object. */
  get(name: string): Promise<Readable>;

  /** Removes every object whose name begins so. *Repeat*: fine. */
  deleteAll(prefix: string): Promise<void>;
}
