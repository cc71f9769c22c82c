import { createInterface } from 'node:readline/promises';
import { CloudClient } from '#cli/cloud/client.ts';
import { fail, type OutputFormat, printRows, say } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import type { Config } from '#config/schema.ts';
import { describeError } from '#core/errors.ts';
import { checkRoot } from '#host/run-directory.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { lockThisHost, type ProofLine, proveLocked } from '#main/lock-this-host.ts';
import { statePaths } from '#main/state-paths.ts';

type Options = { readonly config?: string; readonly yes: boolean; readonly format: OutputFormat };

/** A service that says nothing for this long hangs. */
const SILENCE_MS = 10_000;

/**
 * The panic button: ends every guest on this host and locks everything, by the service where it answers, else without it.
 * Exit code 0 only when a look from outside of the service finds nothing open.
 */
export async function lockHost({ config: file, yes, format }: Options): Promise<number> {
  checkRoot('Locking this host');
  const config = await loadConfig(file ?? null);
  const { host } = config.DEFAULT;
  if (!yes && !(await isMeant(host))) return 2;
  const started = performance.now();
  const elapsed = () => ((performance.now() - started) / 1000).toFixed(1);
  const tell = (line: string) => say(`${elapsed()} s: ${line}`);
  try {
    await lockByService(config, tell);
  } catch (error) {
    tell(`the service cannot do it (${describeError(error)}); doing it without`);
    await lockThisHost(config, tell);
  }
  const proof = await proveLocked(config);
  printRows(proof.map(asRow), ['looked for', 'found'], format);
  const seconds = elapsed();
  if (proof.every(({ found }) => !(found instanceof Error) && found.length === 0)) {
    say(`host ${host} is locked: nothing was found open, after ${seconds} s`);
    return 0;
  }
  fail(`host ${host} is not proved to be locked, after ${seconds} s.`, ['Run it again, or switch the host off.']);
  return 1;
}

async function isMeant(host: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    fail('standard input is no terminal, so nobody can be asked.', ['Add --yes to lock without a question.']);
    return false;
  }
  using terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`End every guest on host ${host} at once and lock everything? Type yes: `);
  if (answer.trim() === 'yes') return true;
  say('nothing was done');
  return false;
}

/** Asks the service as its first administrator. *Throws* when it does not answer, refuses, falls silent or fails. */
async function lockByService(config: Config, tell: (line: string) => void): Promise<void> {
  const login = await readCloudsYaml(statePaths(config.DEFAULT.state_path).clouds);
  const ended = new AbortController();
  const silence = watchSilence(ended);
  try {
    const token = await new CloudClient(login, ended.signal).token();
    silence.heard();
    const base = login.authUrl.replace(/\/identity\/v3$/, '');
    const address = `${base}/nightlatch/v1/hosts/${encodeURIComponent(config.DEFAULT.host)}/lock`;
    const headers = { 'x-auth-token': token };
    const answer = await fetch(address, { method: 'POST', signal: ended.signal, headers });
    if (!answer.ok || answer.body === null) throw new Error(`it answered ${answer.status}: ${await answer.text()}`);
    for await (const line of linesOf(answer.body)) {
      silence.heard();
      const { told, error, locked } = JSON.parse(line) as { told?: string; error?: string; locked?: boolean };
      if (told !== undefined) tell(told);
      if (error !== undefined) throw new Error(error);
      if (locked === true) return;
    }
    throw new Error('it ended its answer half-way');
  } finally {
    silence.stop();
    ended.abort();
  }
}

function watchSilence(ended: AbortController): { heard(): void; stop(): void } {
  let heardAt = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - heardAt > SILENCE_MS) ended.abort(new Error(`it said nothing for ${SILENCE_MS / 1000} s`));
  }, 100);
  return { heard: () => (heardAt = performance.now()), stop: () => clearInterval(timer) };
}

async function* linesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = '';
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
}

function asRow({ what, found }: ProofLine) {
  const text = found instanceof Error ? `unknown: ${found.message}` : found.join(', ') || 'none';
  return { 'looked for': what, found: text };
}
