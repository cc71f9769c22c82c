import type { ColumnType } from 'kysely';

/** A column the database fills at insert and nobody changes. */
export type CreatedAt = ColumnType<Date, Date | undefined, never>;
export type Time = ColumnType<Date, Date, Date>;
export type Strings = Readonly<Record<string, string>>;

/** The operation under way on a row: enough to start it again if the process died before the engine recorded it. */
export type PendingOperation = { readonly id: string; readonly name: string; readonly input: unknown };
