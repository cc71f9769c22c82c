import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectPool, openDatabase } from '#db/database.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { TestService } from '#test/support/service.ts';
import { type Comparison, timed } from './comparison.ts';

const GUESTS = 50;
/** However many guests there are, the panic button is to be done before its operator loses patience. */
const BOUND_MS = 60_000;
const WAIT_MS = 600_000;
const AT_ONCE = 7;

/**
 * `nightlatch host lock --all` with so many encrypted guests of 64 MiB, from the key to the proof; and one server's stop,
 * until SHUTOFF, for comparison. The guests are of 512 bytes: what a guest does is not what takes time.
 */
export async function benchPanic(progress: (line: string) => void): Promise<Comparison[]> {
  await using service = await TestService.start({ shutdownTimeout: 0 });
  const cloud = await service.client();
  const image = join(service.directory, 'boot-sector.raw');
  await writeFile(image, bootSector());
  const imageRef = await cloud.uploadImage('bench', image, 'raw');
  const { flavor } = await cloud.expect('compute', 'POST', '/v2.1/flavors', {
    body: { flavor: { name: 'bench', vcpus: 1, ram: 64, disk: 0 } },
  });
  const specs = { extra_specs: { 'hw:ephemeral_encryption': 'true' } };
  await cloud.expect('compute', 'POST', `/v2.1/flavors/${flavor.id}/os-extra_specs`, { body: specs });
  await allowManyGuests(service);
  const create = async (name: string) => {
    const body = { server: { name, imageRef, flavorRef: flavor.id, networks: 'none' } };
    const { server } = await cloud.expect('compute', 'POST', '/v2.1/servers', { body });
    await cloud.waitForStatus(server.id, 'ACTIVE', WAIT_MS);
    return server.id as string;
  };
  const one = await create('one');
  const stops: number[] = [];
  for (let round = 0; round < 5; round++) {
    stops.push(
      await timed(async () => {
        await cloud.act(one, { 'os-stop': null });
        await cloud.waitForStatus(one, 'SHUTOFF');
      }),
    );
    await cloud.act(one, { 'os-start': null });
    await cloud.waitForStatus(one, 'ACTIVE');
  }
  for (let i = 1; i < GUESTS; i += AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, GUESTS - i) }, (_, j) => create(`guest ${i + j + 1}`)));
    progress(`${Math.min(i + AT_ONCE, GUESTS)} guests run`);
  }
  let lockedMs = Number.NaN;
  const ms = await timed(async () => {
    const { code, stderr } = await nightlatch('host', 'lock', '--all', '--yes', '--config', service.configFile);
    for (const line of stderr.trim().split('\n')) progress(line);
    lockedMs = Number(/^([\d.]+) s: no guest runs, no disk is unlocked/m.exec(stderr)?.[1]) * 1000;
    if (code !== 0) throw new Error(`the host was not proved to be locked: ${stderr}`);
  });
  return [
    {
      bench: 'panic',
      ours: { what: `lock a host with ${GUESTS} guests, and prove it`, times: [ms] },
      other: { what: 'the longest it may take', times: [BOUND_MS] },
      target: 1,
    },
    {
      bench: 'panic',
      ours: { what: `lock a host with ${GUESTS} guests, and prove it`, times: [ms] },
      other: { what: 'stop one server, until it is SHUTOFF', times: stops },
      target: null,
    },
    {
      bench: 'panic',
      ours: { what: `of it, until no guest runs and no disk is unlocked`, times: [lockedMs] },
      other: { what: 'stop one server, until it is SHUTOFF', times: stops },
      target: null,
    },
  ];
}

/** Placement gives each processor to four guests at most; these only sleep. */
async function allowManyGuests(service: TestService): Promise<void> {
  const address = { host: join(service.stateDirectory, 'postgresql'), user: 'nightlatch', database: 'nightlatch' };
  await using db = openDatabase(connectPool(address));
  await db.updateTable('hosts').set({ vcpus: 1000 }).execute();
}
