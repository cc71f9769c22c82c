import { PassThrough } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { callerOf } from '#api/auth.ts';
import type { OperatorDependencies } from '#api/operator/service.ts';
import { enforce, type Policy } from '#api/policy.ts';
import { describeError, notFound } from '#core/errors.ts';
import { listHosts } from '#db/hosts.ts';

const policy = { 'nightlatch:hosts:lock': 'admin' } as const satisfies Policy<string>;

/** A client can tell by them that the service is alive. */
const HEARTBEAT_MS = 1000;

/**
 * `POST /nightlatch/v1/hosts/NAME/lock`: the answer is one JSON object a line, as they happen: `{"told": "…"}`, `{}` when
 * there is nothing to tell, and at last `{"locked": true}` or `{"error": "…"}`. It goes on when nobody reads it.
 */
export function addHostRoutes(app: FastifyInstance, { db, hosts }: OperatorDependencies): void {
  app.post('/hosts/:name/lock', async (request, reply) => {
    enforce(policy, 'nightlatch:hosts:lock', callerOf(request));
    const { name } = request.params as { name: string };
    const host = (await listHosts(db)).find((one) => one.name === name);
    if (!host) throw notFound('Host', name);
    const answer = new PassThrough();
    const say = (line: object) => answer.writable && answer.write(`${JSON.stringify(line)}\n`);
    const heartbeat = setInterval(() => say({}), HEARTBEAT_MS);
    void hosts
      .lock(host.name, request.id, (told) => say({ told }))
      .then(() => say({ locked: true }))
      .catch((error: unknown) => {
        request.log.error({ err: error }, `locking host ${host.name} failed: ${describeError(error)}`);
        say({ error: describeError(error) });
      })
      .finally(() => {
        clearInterval(heartbeat);
        answer.end();
      });
    return reply.type('application/x-ndjson').send(answer);
  });
}
