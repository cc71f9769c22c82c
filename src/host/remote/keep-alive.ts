import type { Http2Session } from 'node:http2';

export type KeepAlive = { readonly everyMs: number; readonly deadAfterMs: number };
const KEEP_ALIVE: KeepAlive = { everyMs: 5000, deadAfterMs: 15_000 };

/** Ends a session whose other end has not answered a ping (RFC 9113 section 6.7) for too long. */
export function keepAlive(session: Http2Session, { everyMs, deadAfterMs }: KeepAlive = KEEP_ALIVE): void {
  let heardAt = Date.now();
  const timer = setInterval(() => {
    if (Date.now() - heardAt > deadAfterMs) return session.destroy();
    ping(session).then(
      () => {
        heardAt = Date.now();
      },
      () => {},
    );
  }, everyMs);
  session.once('close', () => clearInterval(timer));
}

/** Whether the other end answers a ping within the time. */
export async function answers(session: Http2Session, withinMs: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<false>();
  const timer = setTimeout(() => resolve(false), withinMs);
  const pinged = ping(session).then(
    () => true,
    () => false,
  );
  try {
    return await Promise.race([pinged, late]);
  } finally {
    clearTimeout(timer);
  }
}

function ping(session: Http2Session): Promise<void> {
  return new Promise((resolve, reject) => {
    if (session.destroyed || session.closed) return reject(new Error('the session has ended'));
    session.ping((error) => (error ? reject(error) : resolve()));
  });
}
