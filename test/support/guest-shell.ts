import type { Duplex } from 'node:stream';
import type { ConfigDriveFile } from '#core/disk.ts';
import type { ServerId } from '#core/ids.ts';
import type { HostAgent } from '#host/host-agent.ts';
import { waitUntil } from '#test/support/wait.ts';

const BOOT_MS = 120_000;
const COMMAND_MS = 30_000;

/** In a guest of the guest image: what comes as `NL <number> <command>` on the serial console is run by its shell. */
export const GUEST_SHELL = `#cloud-boothook
#!/bin/sh
exec 3<>/dev/ttyS0
stty -F /dev/ttyS0 icanon icrnl -echo -ixon -isig
echo "NL listening" >&3
while read -r word number command <&3; do
	[ "$word" = NL ] && echo "NL $number $(eval "$command" 2>&1 | tr '\\n' ' ')." >&3
done
`;

/** The config drive of a guest that listens. */
export function shellConfigDrive(serverId: ServerId): ConfigDriveFile[] {
  const file = (name: string, text: string) => {
    return { path: `openstack/latest/${name}`, base64: Buffer.from(text).toString('base64') };
  };
  return [
    file('user_data', GUEST_SHELL),
    file('meta_data.json', JSON.stringify({ uuid: serverId, hostname: 'guest' })),
  ];
}

/** The shell of such a guest, by its host alone. */
export class GuestShell implements Disposable {
  readonly #console: Duplex;
  #text = '';
  #last = 0;

  private constructor(console: Duplex) {
    this.#console = console;
    console.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1');
    });
    console.on('error', () => {});
  }

  /** Waits until the guest has booted, the `boots`th time. */
  static async open(agent: HostAgent, serverId: ServerId, boots = 1): Promise<GuestShell> {
    const hasBooted = async () => {
      const log = (await agent.consoleLog(serverId, 2 ** 20)).toString('latin1');
      return log.split('NL listening').length > boots;
    };
    await waitUntil(`server ${serverId} has booted`, hasBooted, BOOT_MS);
    return new GuestShell(await agent.openConsole(serverId));
  }

  /** What a command printed, its lines as words. */
  async run(command: string): Promise<string> {
    const number = ++this.#last;
    this.#console.write(`NL ${number} ${command}\n`);
    const answer = () => new RegExp(`NL ${number} (.*)\\.\r?\n`).exec(this.#text)?.[1];
    await waitUntil(`an answer to ${command}`, async () => answer() !== undefined, COMMAND_MS);
    return (answer() ?? '').trim();
  }

  [Symbol.dispose](): void {
    this.#console.destroy();
  }
}
