import { copyFile, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { type Kind, VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { type Comparison, inTurns, median, milliseconds, timed } from './comparison.ts';
import { changeStockKey, createStock } from './stock-disk.ts';

type Progress = (line: string) => void;
type Lab = VolumesAndServers;

const ROUNDS = 5;
const DATA_BYTES = 256 * MIB;
const LISTED = 1000;
const AT_ONCE = 8;
const POLL_MS = 5;
const TYPE = 'encrypted';
const BENCH = 'block-storage';

/**
 * What clients of block storage wait for, over HTTP until the status, next to the stock programs by themselves: volumes
 * made, cloned and deleted on raw files, and a long list of them.
 */
export async function benchBlockStorage(progress: Progress): Promise<Comparison[]> {
  await using lab = await VolumesAndServers.open({ imagesType: 'raw' });
  await lab.addEncryptedType(TYPE);
  const compared = [];
  for (const measure of [compareCreation, compareClone, compareDeletion, compareList]) {
    compared.push(await measure(lab, progress));
  }
  return compared;
}

async function compareCreation(lab: Lab, progress: Progress): Promise<Comparison> {
  using key = Secret.generate();
  const stock = join(lab.servers.service.directory, 'stock');
  const times = await inTurns(
    ROUNDS,
    {
      ours: async () => {
        const { id, ms } = await createVolume(lab, { size: 10, volume_type: TYPE });
        await lab.delete('volume', id);
        return ms;
      },
      stock: async () => {
        await rm(stock, { force: true });
        return await createStock(stock, 'raw', 10 * GIB, key);
      },
    },
    progress,
  );
  const other = { what: 'qemu-img create -f luks', times: times.stock };
  return {
    bench: BENCH,
    ours: { what: 'create an encrypted volume of 10 GiB, until available', times: times.ours },
    other,
    target: 1,
  };
}

/** Both copy a disk that holds 256 MiB; then ours has another key, as the stock one has after `luksChangeKey`. */
async function compareClone(lab: Lab, progress: Progress): Promise<Comparison> {
  const { directory } = lab.servers.service;
  const image = join(directory, 'random.raw');
  await writeRandom(image, 0);
  const imageRef = await lab.servers.cloud.uploadImage('random', image, 'raw');
  const source = await createVolume(lab, { size: 1, volume_type: TYPE, imageRef });
  using from = Secret.generate();
  using to = Secret.generate();
  const [original, copy] = [join(directory, 'original'), join(directory, 'copy')];
  await createStock(original, 'raw', GIB, from);
  await writeRandom(original, 16 * MIB);
  const times = await inTurns(
    ROUNDS,
    {
      ours: async () => {
        const { id, ms } = await createVolume(lab, { size: 1, source_volid: source.id });
        await lab.delete('volume', id);
        return ms;
      },
      stock: async () => {
        await rm(copy, { force: true });
        return await timed(async () => {
          await copyFile(original, copy);
          await changeStockKey(copy, from, to);
        });
      },
    },
    progress,
  );
  await lab.delete('volume', source.id);
  return {
    bench: BENCH,
    ours: { what: 'clone a volume that holds 256 MiB, with a key of its own, until available', times: times.ours },
    other: { what: 'copy such a file, cryptsetup luksChangeKey', times: times.stock },
    target: 1,
  };
}

async function compareDeletion(lab: Lab, progress: Progress): Promise<Comparison> {
  const around = (size: number) => async () => {
    const { id } = await createVolume(lab, { size, volume_type: TYPE });
    return await timed(async () => {
      await lab.must('DELETE', `/volumes/${id}`);
      await reach(lab, 'volume', id, 'gone');
    });
  };
  const times = await inTurns(ROUNDS, { large: around(100), small: around(1) }, progress);
  return {
    bench: BENCH,
    ours: { what: 'delete an encrypted volume of 100 GiB, until gone', times: times.large },
    other: { what: 'delete one of 1 GiB', times: times.small },
    target: 1.2,
  };
}

/** The list of all of them in detail, one request after another, and several at once. */
async function compareList(lab: Lab, progress: Progress): Promise<Comparison> {
  await createMany(lab);
  const list = async () => {
    const { volumes } = await lab.must('GET', '/volumes/detail');
    if (volumes.length !== LISTED) throw new Error(`${volumes.length} volumes were listed`);
  };
  const rows = async () => {
    const read = sql`select json_agg(v) as volumes from (select * from volumes where deleted_at is null order by created_at) v`;
    await read.execute(lab.servers.db);
  };
  for (const warm of [list, rows]) await warm();
  const times = await inTurns(15, { ours: () => timed(list), rows: () => timed(rows) }, progress);
  const requests = 40;
  const both = await timed(() => inParallel(requests, list));
  return {
    bench: BENCH,
    ours: { what: `list ${LISTED} volumes in detail`, times: times.ours },
    other: { what: 'PostgreSQL makes JSON of their rows', times: times.rows },
    target: null,
    figures: [
      `p50 ${milliseconds(median(times.ours))}; ${((requests * 1000) / both).toFixed(1)} requests a second, ${AT_ONCE} at once`,
    ],
  };
}

/** One is made; the rows of the others are like its own: a list asks nothing else, and their disks need no room. */
async function createMany(lab: Lab): Promise<void> {
  const { id } = await createVolume(lab, { size: 1, volume_type: TYPE });
  await sql`
    with ids as (select gen_random_uuid()::text as id from generate_series(2, ${LISTED})),
    copies as (
      insert into volumes
      select (jsonb_populate_record(v, jsonb_build_object('id', ids.id))).* from volumes v, ids where v.id = ${id})
    insert into disks
    select (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid()::text, 'owner_id', ids.id))).*
    from disks d, ids where d.owner_id = ${id}`.execute(lab.servers.db);
}

async function inParallel(times: number, work: () => Promise<unknown>): Promise<void> {
  let left = times;
  const worker = async () => {
    while (left-- > 0) await work();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** Makes a volume and waits until it is available. */
export async function createVolume(lab: Lab, wanted: object): Promise<{ readonly id: string; readonly ms: number }> {
  let id = '';
  const ms = await timed(async () => {
    id = (await lab.must('POST', '/volumes', { volume: { ...wanted } })).volume.id;
    await reach(lab, 'volume', id, 'available');
  });
  return { id, ms };
}

/** Looks more often than the lab does, whose pauses would hide what is to be measured. */
async function reach(lab: Lab, kind: Kind, id: string, wanted: string): Promise<void> {
  for (;;) {
    const { status, body } = await lab.ask('GET', `/${kind}s/${id}`);
    const is = status === 404 ? 'gone' : body[kind].status;
    if (is === wanted) return;
    if (is.startsWith('error')) throw new Error(`${kind} ${id} is ${is}, not ${wanted}`);
    await sleep(POLL_MS);
  }
}

/** Bytes that nothing can pack, written into a file from an offset on. */
async function writeRandom(path: string, offset: number): Promise<void> {
  if (offset === 0) await writeFile(path, '');
  await using file = await open(path, 'r+');
  await using random = await open('/dev/urandom', 'r');
  const chunk = Buffer.alloc(8 * MIB);
  for (let at = 0; at < DATA_BYTES; at += chunk.length) {
    await random.read(chunk, 0, chunk.length, null);
    await file.write(chunk, 0, chunk.length, offset + at);
  }
  await file.sync();
}
