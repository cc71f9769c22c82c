import type { CloudClient } from '#cli/cloud/client.ts';
import { buildGuestImage, type GuestImage } from '#cli/guest-image/guest-image.ts';
import { waitUntil } from '#test/support/wait.ts';

/** Shared by all tests and kept: building takes minutes on a slow line. */
const CACHE = '/var/cache/nightlatch/guest-image';
const BOOT_MS = 120_000;

/** The guest image, built at the first call on this machine. */
export async function testGuestImage(): Promise<GuestImage> {
  return await buildGuestImage({ cacheDirectory: CACHE });
}

/** Waits until a guest with the marker script has booted this many times over its server's life. */
export async function waitForBoots(cloud: CloudClient, id: string, boots: number): Promise<void> {
  const booted = async () => (await cloud.consoleLog(id)).split('NIGHTLATCH listening').length - 1 >= boots;
  await waitUntil(`boot ${boots} of server ${id}`, booted, BOOT_MS);
}
