import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudClient } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import {
  type MarkerPlace,
  type MarkerReport,
  type Markers,
  markerPlaces,
  markerScript,
  readMarkerReport,
} from '#cli/guest-image/guest-script.ts';
import { must } from '#cli/tour/narrator.ts';

const ANSWER_MS = 20_000;
/** A line can be torn by a message of the guest's kernel; asking again mends that. */
const ATTEMPTS = 3;

/** User data that makes a guest keep the markers, in base64. */
export function userDataFor(markers: Markers): string {
  return Buffer.from(markerScript({ markers })).toString('base64');
}

/** The guest of a server, spoken to by its serial console over the compute API. */
export class TourGuest implements Disposable {
  readonly #console: GuestConsole;

  private constructor(console: GuestConsole) {
    this.#console = console;
  }

  /** Opens the console of a server that runs. It closes when `stop` is aborted. */
  static async open(client: CloudClient, serverId: string, stop: AbortSignal): Promise<TourGuest> {
    const console = await GuestConsole.open(await client.serialConsoleUrl(serverId));
    stop.addEventListener('abort', () => console[Symbol.dispose](), { once: true });
    return new TourGuest(console);
  }

  /** Waits until the guest has booted and listens. */
  async booted(timeoutMs: number): Promise<void> {
    await this.#console.line(/NIGHTLATCH listening/, timeoutMs);
  }

  /** What the guest finds of its markers now; the disks' are read from the disks, not from its memory. */
  async markers(): Promise<MarkerReport> {
    const [line] = await this.#ask('NL markers', /NIGHTLATCH markers .*memory=\w+/);
    const report = readMarkerReport(line);
    must(report !== null, `the guest's answer cannot be read: ${line}`);
    return report;
  }

  /** Bytes of each disk as the guest sees them, by the guest's name of it. */
  async diskSizes(): Promise<ReadonlyMap<string, number>> {
    const sizes = new Map<string, number>();
    // Lines come in the order of the names; the last of a virtio disk is the config drive's.
    for (const name of ['vda', 'vdb', 'vdc']) {
      const [, bytes] = await this.#ask('NL size', new RegExp(`NIGHTLATCH size ${name} (\\d+)$`));
      sizes.set(name, Number(bytes));
    }
    return sizes;
  }

  /** Tells the guest to power itself off; returns when it says that it does. */
  async powerOff(): Promise<void> {
    await this.#ask('NL poweroff', /NIGHTLATCH poweroff/);
  }

  [Symbol.dispose](): void {
    this.#console[Symbol.dispose]();
  }

  async #ask(command: string, answer: RegExp): Promise<RegExpExecArray> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#console.ask(command, answer, ANSWER_MS);
      } catch (error) {
        if (attempt === ATTEMPTS) throw error;
        await sleep(500);
      }
    }
  }
}

/** @throws unless the guest found its marker at each of these places. */
export function mustHaveFound(report: MarkerReport, places: readonly MarkerPlace[]): void {
  const others = places.filter((place) => report.states[place] !== 'found');
  const told = markerPlaces.map((place) => `${place} ${report.states[place]}`).join(', ');
  must(others.length === 0, `the guest does not find its markers: ${told}`);
}
