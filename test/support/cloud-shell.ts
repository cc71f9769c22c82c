import type { CloudClient } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { GUEST_SHELL } from '#test/support/guest-shell.ts';
import { waitUntil } from '#test/support/wait.ts';

const BOOT_MS = 120_000;

/** What a server is created with, so that its guest, of the guest image, has such a shell. */
export const shellUserData = Buffer.from(GUEST_SHELL).toString('base64');

/** As `GuestShell`, over the compute API: each command has a connection of its own. */
export class CloudShell {
  readonly #cloud: () => CloudClient;
  readonly #server: string;
  #last = 0;

  private constructor(cloud: () => CloudClient, server: string) {
    this.#cloud = cloud;
    this.#server = server;
  }

  /** Waits until the guest has booted, the `boots`th time. `cloud`: the client there is by then. */
  static async open(cloud: () => CloudClient, server: string, boots = 1): Promise<CloudShell> {
    const hasBooted = async () => (await cloud().consoleLog(server)).split('NL listening').length > boots;
    await waitUntil(`boot ${boots} of server ${server}`, hasBooted, BOOT_MS);
    return new CloudShell(cloud, server);
  }

  /** What a command printed, its lines as words. */
  async run(command: string): Promise<string> {
    const number = ++this.#last;
    using guest = await GuestConsole.open(await this.#cloud().serialConsoleUrl(this.#server));
    return ((await guest.ask(`NL ${number} ${command}`, new RegExp(`^NL ${number} (.*)\\.$`)))[1] ?? '').trim();
  }
}
