import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudClient } from '#cli/cloud/client.ts';

const POLL_MS = 5;
/** Where a new process takes a second, so does each state. */
const SLOW_POLL_MS = 200;
const TIMEOUT_MS = 120_000;

/**
 * What a client that looks all the time sees of a server while `act` runs and until the server is where it should end:
 * `STATUS` or `STATUS task`, each change once; `gone` when there is no such server.
 * @throws what `act` throws; when the server ends elsewhere.
 */
export async function wayOf(
  cloud: CloudClient,
  name: string,
  end: string,
  act: () => Promise<unknown>,
): Promise<string[]> {
  const deadline = Date.now() + TIMEOUT_MS * cloud.patience;
  const way = [await look(cloud, name)];
  let isDone = false;
  let failure: unknown;
  act().then(
    () => {
      isDone = true;
    },
    (error: unknown) => {
      failure = error;
    },
  );
  for (;;) {
    const wasDone = isDone;
    const seen = await look(cloud, name);
    if (failure !== undefined) throw failure;
    if (seen !== way.at(-1)) way.push(seen);
    if (wasDone && !seen.includes(' ') && (seen === end || seen === 'ERROR')) break;
    if (Date.now() > deadline) throw new Error(`waited for ${end} of server ${name}, but saw: ${way.join(', ')}`);
    await sleep(cloud.patience === 1 ? POLL_MS : SLOW_POLL_MS);
  }
  return way;
}

async function look(cloud: CloudClient, name: string): Promise<string> {
  const { servers } = await cloud.expect('compute', 'GET', `/v2.1/servers/detail?name=^${name}$`);
  const server = servers[0];
  if (!server) return 'gone';
  const task = server['OS-EXT-STS:task_state'];
  return task === null ? server.status : `${server.status} ${task}`;
}
