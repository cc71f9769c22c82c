import { AsyncLocalStorage } from 'node:async_hooks';
import { DBOS } from '@dbos-inc/dbos-sdk';
import type pg from 'pg';
import type { Logger } from 'pino';
import { crashPoint } from '#core/crash-point.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import { newId } from '#core/ids.ts';
import type { PendingOperation } from '#db/tables/columns.ts';

/** Why a step failed, as it is recorded: plain data, no key, no stack. */
export type Failure = { readonly code: string; readonly status: number; readonly message: string };

/**
 * One step of an operation. The engine may run it again after a crash, so `run` and `undo` are idempotent. Inputs are
 * written to the database: they name disks and servers, never a key.
 */
export type Step<Input> = {
  readonly name: string;
  run(input: Input): Promise<void>;
  /** Takes back what `run` did, wholly or in part; absent where there is nothing to take back. */
  undo?(input: Input): Promise<void>;
};

/** How an operation went; `endedAt` null: it goes on. */
export type Outcome = { readonly endedAt: Date | null; readonly failure: Failure | null };

/** A durable multi-step change. When a step fails, the steps begun so far are undone in reverse, then `failed` runs. */
export type Operation<Input> = {
  readonly name: string;
  readonly steps: readonly Step<Input>[];
  failed(input: Input, failure: Failure): Promise<void>;
};

/** Pauses before a step that failed for a passing reason is tried again. */
const RETRY_AFTER_MS = [500, 1000, 2000] as const;
/** An undo is tried for about a minute; what it could not take back is left to the sweep at the next start. */
const UNDO_RETRY_AFTER_MS = [500, 1000, 2000, 4000, 8000, 15000, 30000] as const;
const SHUTDOWN_GRACE_MS = 5000;
/** Operations recorded under another version are not recovered; raised when steps change their meaning. */
const OPERATIONS_VERSION = '1';

/**
 * Runs operations so that a crash at any instant only pauses them. The only file that knows DBOS.
 *
 * DBOS keeps its state in PostgreSQL, schema `dbos`. It is one per process by its own design.
 */
export class Engine {
  readonly #log: Logger;
  readonly #workflows = new Map<string, (input: unknown) => Promise<Failure | null>>();
  /** DBOS refuses to start an operation, or to tell of one, from within a step of another; asked from here, it does. */
  readonly #outsideSteps = AsyncLocalStorage.snapshot();
  #abandoned = false;

  constructor(pool: pg.Pool, log: Logger) {
    this.#log = log;
    DBOS.setConfig({
      name: 'nightlatch',
      systemDatabasePool: pool,
      applicationVersion: OPERATIONS_VERSION,
      runAdminServer: false,
      logger: quietLogger(log),
    });
  }

  /** Makes an operation known. All of them before `launch`, so that interrupted ones can be gone on with. */
  register<Input>(operation: Operation<Input>): void {
    const workflow = async (input: Input) => this.#execute(operation, input);
    const registered = DBOS.registerWorkflow(workflow, { name: operation.name });
    this.#workflows.set(operation.name, registered as (input: unknown) => Promise<Failure | null>);
  }

  /** Connects, and goes on with every operation that a crash interrupted. */
  async launch(): Promise<void> {
    await DBOS.launch();
  }

  /** Starts operations that rows name. *Repeat*: they go on. *Crash*: the rows name them, and the next start of the service begins them. */
  async begin(...operations: readonly PendingOperation[]): Promise<void> {
    crashPoint('operations.recorded');
    for (const { name, id, input } of operations) await this.start(name, id, input);
  }

  /** Starts an operation under an id, also from a step of another. *Repeat* with the same id: the one that has it goes on. */
  async start(name: string, id: string, input: unknown): Promise<void> {
    const workflow = this.#workflows.get(name);
    if (!workflow) throw new Error(`operation ${name} was never registered`);
    await this.#outsideSteps(async () => void (await DBOS.startWorkflow(workflow, { workflowID: id })(input)));
  }

  /** Waits until the operation with this id has ended; one that was never started counts as ended. */
  settled(id: string): Promise<void> {
    return this.#outsideSteps(async () => {
      const handle = DBOS.retrieveWorkflow(id);
      if ((await handle.getStatus()) === null) return;
      await handle.getResult({ pollingIntervalMs: 50 }).catch(() => {});
    });
  }

  /** Whether the operation with this id was started and has ended, well or badly. */
  async hasEnded(id: string): Promise<boolean> {
    const status = await DBOS.retrieveWorkflow(id).getStatus();
    return status !== null && isOver(status);
  }

  /** How operations went that were started under these ids. */
  async outcomes(ids: readonly string[]): Promise<ReadonlyMap<string, Outcome>> {
    if (ids.length === 0) return new Map();
    const known = await DBOS.listWorkflows({ workflowIDs: [...ids], loadInput: false, loadOutput: true });
    return new Map(
      known.map((workflow) => {
        const { workflowID, output, completedAt } = workflow;
        const endedAt = isOver(workflow) && completedAt !== undefined ? new Date(completedAt) : null;
        return [workflowID, { endedAt, failure: (output ?? null) as Failure | null }];
      }),
    );
  }

  /** Stops taking on work, gives running operations a moment; what is not done by then goes on at the next launch. */
  async stop(): Promise<void> {
    await DBOS.shutdown({ deregister: true, workflowCompletionTimeoutMS: SHUTDOWN_GRACE_MS });
    this.#abandoned = true;
  }

  /** What it returns is recorded as the operation's outcome: why it failed; null: it did not. */
  async #execute<Input>(operation: Operation<Input>, input: Input): Promise<Failure | null> {
    const begun: Step<Input>[] = [];
    for (const step of operation.steps) {
      begun.push(step);
      const failure = await this.#attempt(`${operation.name}.${step.name}`, () => step.run(input), RETRY_AFTER_MS);
      if (failure === null) continue;
      for (const done of begun.reverse()) {
        if (!done.undo) continue;
        await this.#attempt(`${operation.name}.${done.name}.undo`, async () => done.undo?.(input), UNDO_RETRY_AFTER_MS);
      }
      await this.#attempt(`${operation.name}.failed`, () => operation.failed(input, failure), UNDO_RETRY_AFTER_MS);
      return failure;
    }
    return null;
  }

  /** Runs one recorded step, again after a pause while its failure is a passing one. Null: it succeeded. */
  async #attempt(name: string, run: () => Promise<void>, pauses: readonly number[]): Promise<Failure | null> {
    for (let attempt = 0; ; attempt++) {
      const outcome = await DBOS.runStep(() => this.#outcomeOf(name, run), { name });
      const pause = pauses[attempt];
      if (outcome === null || outcome.retry !== 'later' || pause === undefined) return outcome?.failure ?? null;
      await DBOS.sleep(pause);
    }
  }

  async #outcomeOf(name: string, run: () => Promise<void>) {
    crashPoint(`${name}.before`);
    try {
      await run();
      crashPoint(`${name}.after`);
      return null;
    } catch (error) {
      // What fails because the process is ending has not failed: it is not recorded and runs again at the next launch.
      if (this.#abandoned) return await new Promise<never>(() => {});
      // Handled here: the failure becomes the server's fault, and the log line carries what a fault does not.
      this.#log.warn({ step: name, err: error }, `${name} failed: ${describeError(error)}`);
      return asOutcome(error);
    }
  }
}

/** An operation of this name as a row names it, under an id of its own. */
export function pendingOn<Input extends { readonly operationId: string }>(
  name: string,
  particulars: Omit<Input, 'operationId'>,
): PendingOperation {
  const id = `${name}:${newId()}`;
  return { id, name, input: { ...particulars, operationId: id } };
}

function isOver({ status }: { readonly status: string }): boolean {
  return status !== 'PENDING' && status !== 'ENQUEUED';
}

function asOutcome(error: unknown): { failure: Failure; retry: string } {
  if (error instanceof NightlatchError) {
    return { failure: { code: error.code, status: error.status, message: error.message }, retry: error.retry };
  }
  const message = `An unexpected error ended the operation: ${describeError(error)}`;
  return { failure: { code: 'bug', status: 500, message }, retry: 'never' };
}

/** DBOS reports every start and recovery; only what may need a person is worth a line of ours. */
function quietLogger(log: Logger) {
  const text = (entry: unknown) => (entry instanceof Error ? entry.message : String(entry));
  return {
    info: () => {},
    debug: () => {},
    warn: (entry: unknown) => log.warn({ part: 'dbos' }, text(entry)),
    error: (entry: unknown) => log.error({ part: 'dbos' }, text(entry)),
  };
}
