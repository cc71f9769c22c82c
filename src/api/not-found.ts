import type { FastifyInstance } from 'fastify';
import { NightlatchError, shorten } from '#core/errors.ts';

type Known = { readonly pattern: RegExp; readonly methods: Set<string> };

/**
 * Answers, in this scope, a path that no route has with 404 and a method that a path does not have with 405 and `Allow`.
 * A path that ends in a slash lacks the id that was to follow: what the collection does not have is not found either.
 * Call it before the scope's routes are added.
 */
export function answerUnknownPaths(app: FastifyInstance): void {
  const known = new Map<string, Known>();
  app.addHook('onRoute', (route) => {
    const entry = known.get(route.url) ?? { pattern: patternOf(route.url), methods: new Set<string>() };
    for (const method of [route.method].flat()) entry.methods.add(method);
    known.set(route.url, entry);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const allowed = [...known.values()]
      .filter(({ pattern }) => pattern.test(path))
      .flatMap(({ methods }) => [...methods]);
    if (allowed.length === 0 || path.endsWith('/'))
      throw new NightlatchError('not-found', { kind: 'The resource', id: shorten(path) });
    void reply.header('allow', [...new Set(allowed)].sort().join(', '));
    throw new NightlatchError('method-not-allowed', { method: request.method, path: shorten(path) });
  });
}

/** The expression for a route's path: `:name` is one segment, `*` the rest. */
function patternOf(url: string): RegExp {
  const source = url
    .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
    .replace(/:\w+/g, '[^/]+')
    .replace(/\*/g, '.*');
  return new RegExp(`^${source.replace(/\/$/, '')}/?$`);
}
