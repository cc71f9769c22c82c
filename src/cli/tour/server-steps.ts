import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import type { MarkerReport, Markers } from '#cli/guest-image/guest-script.ts';
import { type BootImage, TOUR_NAME } from '#cli/tour/boot-image.ts';
import { mustHaveFound, TourGuest, userDataFor } from '#cli/tour/guest.ts';
import { must, type Told } from '#cli/tour/narrator.ts';
import { GIB, MIB } from '#core/sizes.ts';

/** What the flavor asks of every server made with it. */
const EXTRA_SPECS = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': 'luks' };
const EPHEMERAL_GIB = 1;
const SWAP_MIB = 64;

/** A server that the tour works with. */
export type TourServer = {
  readonly id: string;
  readonly image: BootImage;
  readonly client: CloudClient;
  readonly stop: AbortSignal;
};

/** Makes the flavor anew. Servers keep their own copy of the flavor they were made from, so replacing it is safe. */
export async function provideFlavor(client: CloudClient, image: BootImage): Promise<Told<string>> {
  const { flavors } = await client.expect('compute', 'GET', '/v2.1/flavors');
  for (const { id, name } of flavors)
    if (name === TOUR_NAME) await client.expect('compute', 'DELETE', `/v2.1/flavors/${id}`);
  const flavor = {
    ...{ name: TOUR_NAME, vcpus: 1, ram: image.ramMib, disk: image.rootGib, swap: SWAP_MIB },
    'OS-FLV-EXT-DATA:ephemeral': EPHEMERAL_GIB,
  };
  const { id } = (await client.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } })).flavor;
  await client.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, { body: { extra_specs: EXTRA_SPECS } });
  const made = (await client.expect('compute', 'GET', `/v2.1/flavors/${id}`)).flavor;
  const specs = Object.entries(made.extra_specs as Record<string, string>).map((pair) => pair.join('='));
  return {
    value: id,
    evidence: [
      {
        lookedAt: `flavor ${TOUR_NAME}`,
        found: `root ${made.disk} GiB, ephemeral ${made['OS-FLV-EXT-DATA:ephemeral']} GiB, swap ${made.swap} MiB, memory ${made.ram} MiB`,
      },
      { lookedAt: 'its extra specs', found: specs.join(' ') },
    ],
  };
}

/** Creates the server and lets its guest write a marker on each of its three disks and one in its memory. */
export async function createServer(
  client: CloudClient,
  image: BootImage,
  flavorId: string,
  markers: Markers,
  stop: AbortSignal,
): Promise<Told<{ readonly server: TourServer; readonly firstBoot: MarkerReport }>> {
  const wanted = { name: TOUR_NAME, imageRef: image.id, flavorRef: flavorId, networks: 'none', config_drive: true };
  const body = { server: { ...wanted, user_data: userDataFor(markers) } };
  const { id } = (await client.expect('compute', 'POST', '/v2.1/servers', { body })).server;
  const server = { id, image, client, stop };
  const shown = await client.waitForStatus(id, 'ACTIVE');
  using guest = await bootedGuest(server);
  const report = await guest.markers();
  mustHaveFound(report, ['root', 'ephemeral', 'swap', 'memory']);
  const sizes = await sizesInGuest(guest, image);
  return {
    value: { server, firstBoot: report },
    evidence: [
      { lookedAt: `server ${id.slice(0, 8)}…`, found: `${shown.status} as ${instanceName(shown)}` },
      { lookedAt: 'serial console of the guest', found: `booted, boot id ${report.bootId}` },
      { lookedAt: 'disks as the guest sees them', found: sizes, promise: 'Usable size is the size asked for' },
      { lookedAt: 'markers', found: 'the guest wrote one on root, ephemeral and swap, and keeps one in memory' },
    ],
  };
}

/** The guest of a server that was just started, once it listens. */
export async function bootedGuest({ client, id, image, stop }: TourServer): Promise<TourGuest> {
  const guest = await TourGuest.open(client, id, stop);
  try {
    await guest.booted(image.bootMs);
    return guest;
  } catch (error) {
    guest[Symbol.dispose]();
    throw error;
  }
}

async function sizesInGuest(guest: TourGuest, image: BootImage): Promise<string> {
  const sizes = await guest.diskSizes();
  const wanted = { vda: image.rootGib * GIB, vdb: EPHEMERAL_GIB * GIB, vdc: SWAP_MIB * MIB };
  for (const [name, bytes] of Object.entries(wanted))
    must(sizes.get(name) === bytes, `${name} has ${sizes.get(name)} bytes in the guest, the flavor says ${bytes}`);
  return Object.entries(wanted)
    .map(([name, bytes]) => `${name} ${bytes / MIB}`)
    .join(', ')
    .concat(' MiB to the byte');
}

function instanceName(server: JsonObject): string {
  return server['OS-EXT-SRV-ATTR:instance_name'] ?? server.name;
}

/** Deletes every server of the tour's name, and waits until they are gone. */
export async function removeTourServers(client: CloudClient): Promise<number> {
  const { servers } = await client.expect('compute', 'GET', `/v2.1/servers?name=${TOUR_NAME}`);
  const ours = (servers as JsonObject[]).filter(({ name }) => name === TOUR_NAME);
  for (const { id } of ours) {
    const { status } = await client.request('compute', 'DELETE', `/v2.1/servers/${id}`);
    // 404: it has gone meanwhile; 409: it is being deleted.
    must(status < 400 || status === 404 || status === 409, `deleting server ${id} answered ${status}`);
  }
  for (const { id } of ours) await client.waitUntilGone(id);
  return ours.length;
}
