import type { HostAgent, HostEvent, ImageBytes } from '#host/host-agent.ts';

/** An agent whose verbs are those given; any other fails. It locks strays at once and counts how often. */
export function scriptedAgent(verbs: Partial<HostAgent>): HostAgent & {
  readonly listeners: Set<(event: HostEvent) => void>;
  readonly locked: () => number;
} {
  const listeners = new Set<(event: HostEvent) => void>();
  let locked = 0;
  const own: Partial<HostAgent> = {
    async lockStrays() {
      locked++;
    },
    onEvent(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    ...verbs,
  };
  const scripted = new Proxy(own, {
    get(target, name) {
      if (name === 'listeners') return listeners;
      if (name === 'locked') return () => locked;
      return Reflect.get(target, name) ?? (async () => Promise.reject(new Error(`${String(name)} is not scripted`)));
    },
  });
  return scripted as ReturnType<typeof scriptedAgent>;
}

/** An image as `cacheImage` is given it. */
export function image(open: ImageBytes['open'], format: ImageBytes['format'] = 'raw'): ImageBytes {
  return { format, isEncrypted: false, open };
}
