import type { Migration } from 'kysely/migration';
import * as createEverything from './0001-create-everything.ts';

/** Every migration, in order, as a literal list: no directory is scanned at run time. */
export const migrations: Record<string, Migration> = {
  '0001-create-everything': createEverything,
};
