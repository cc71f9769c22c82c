import type { CloudClient } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';

/**
 * A guest that was just booted from `bootSector` answers, which it can only when its disk was opened with the right key.
 * Returns the letter it will answer next.
 */
export async function expectBooted(cloud: CloudClient, id: string): Promise<string> {
  using guest = await GuestConsole.open(await cloud.serialConsoleUrl(id));
  for (let attempt = 1; ; attempt++) {
    try {
      const [letter] = await guest.exchange('n', /[a-z]/, 2000);
      return String.fromCharCode(letter.charCodeAt(0) + 1);
    } catch (error) {
      // What is sent while the firmware still has the serial port is lost.
      if (attempt >= 10 * cloud.patience) throw error;
    }
  }
}
