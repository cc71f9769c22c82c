import { randomBytes } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { publicUrlOf } from '#api/public-url.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import { answersOnConsole } from '#core/server.ts';
import { type Server, stateOf } from '#db/servers.ts';

const LIFETIME_MS = 10 * 60_000;
const MAX_OFFERS = 10_000;

type Offer = { readonly serverId: ServerId; readonly expiresAt: number };

/**
 * Addresses of serial consoles: each is good for one connection within ten minutes. They are held in memory only, so
 * a restart forgets them.
 */
export class Consoles {
  readonly #offers = new Map<string, Offer>();
  readonly #publicUrl: string | null;
  readonly #now: () => number;

  constructor(publicUrl: string | null, now: () => number = Date.now) {
    this.#publicUrl = publicUrl;
    this.#now = now;
  }

  /** A WebSocket address for the server's serial console. *Throws* conflict (409) when no guest runs. */
  offer(request: FastifyRequest, server: Server): string {
    if (server.host === null || !answersOnConsole(stateOf(server))) {
      throw new NightlatchError('conflict', { reason: `Instance ${server.id} is not ready` });
    }
    this.#forgetExpired();
    if (this.#offers.size >= MAX_OFFERS) {
      throw new NightlatchError('service-unavailable', {
        reason: 'Too many addresses of consoles are waiting to be used. Try again in a few minutes.',
      });
    }
    const token = randomBytes(32).toString('base64url');
    this.#offers.set(token, { serverId: server.id, expiresAt: this.#now() + LIFETIME_MS });
    return `${publicUrlOf(request, this.#publicUrl).replace(/^http/, 'ws')}/compute/serial/?token=${token}`;
  }

  /** The server whose console the token opens; null when there is none. A token is good once. */
  redeem(token: string): ServerId | null {
    this.#forgetExpired();
    const offer = this.#offers.get(token);
    this.#offers.delete(token);
    return offer?.serverId ?? null;
  }

  #forgetExpired(): void {
    const now = this.#now();
    // In the order they were made, and all live equally long.
    for (const [token, { expiresAt }] of this.#offers) {
      if (expiresAt > now) return;
      this.#offers.delete(token);
    }
  }
}
