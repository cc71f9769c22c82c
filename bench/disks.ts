import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type FileFormat, fileFormats } from '#core/disk.ts';
import { Secret } from '#core/secret.ts';
import { GIB } from '#core/sizes.ts';
import { type DiskLab, diskLab, makeDisk, someDisk } from '#test/support/disk-lab.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';
import { createStock, openByQemu } from './stock-disk.ts';

const SIZE_BYTES = 10 * GIB;
const TARGET = 1 / 50;
const CREATE_ROUNDS = 7;
const OPEN_ROUNDS = 11;
type Progress = (line: string) => void;

/** Creating an encrypted disk, and `qemu-img create` doing it. The skeleton of qcow2 disks, made once a host, is there. */
export async function benchDiskCreate(progress: Progress): Promise<Comparison[]> {
  await using lab = await diskLab();
  using key = Secret.generate();
  const comparisons: Comparison[] = [];
  for (const storage of fileFormats) {
    await createOurs(lab, storage, key);
    const stock = join(lab.disksDirectory, `stock.${storage}`);
    const times = await inTurns(
      CREATE_ROUNDS,
      {
        ours: () => createOurs(lab, storage, key),
        stock: () => createAgain(stock, storage, key),
      },
      progress,
    );
    comparisons.push({
      bench: 'disk-create',
      ours: { what: `a LUKS disk on ${storage} of 10 GiB`, times: times.ours },
      other: {
        what: `qemu-img create -f ${storage === 'raw' ? 'luks' : 'qcow2 -o encrypt.format=luks'}`,
        times: times.stock,
      },
      target: TARGET,
    });
  }
  return comparisons;
}

/** What QEMU takes to open an encrypted disk of ours, and a stock one, beyond opening one that is not encrypted. */
export async function benchDiskOpen(progress: Progress): Promise<Comparison[]> {
  await using lab = await diskLab();
  using key = Secret.generate();
  const comparisons: Comparison[] = [];
  for (const storage of fileFormats) {
    const path = await disksToOpen(lab, storage, key);
    const times = await inTurns(
      OPEN_ROUNDS,
      {
        plain: () => timed(() => openByQemu(path.plain, storage, null)),
        ours: () => timed(() => openByQemu(path.ours, storage, key)),
        stock: () => timed(() => openByQemu(path.stock, storage, key)),
      },
      progress,
    );
    comparisons.push({
      bench: 'disk-open',
      ours: { what: `QEMU opens our LUKS disk on ${storage}`, times: times.ours },
      other: { what: `QEMU opens one made by qemu-img create on ${storage}`, times: times.stock },
      shared: { what: `QEMU opens a ${storage} disk that is not encrypted`, times: times.plain },
      target: TARGET,
    });
  }
  return comparisons;
}

async function createOurs(lab: DiskLab, storage: FileFormat, key: Secret): Promise<number> {
  const disk = someDisk({ storage, sizeBytes: SIZE_BYTES });
  const ms = await timed(() => makeDisk(lab, disk, key));
  await lab.driver(storage).delete(disk);
  return ms;
}

async function createAgain(path: string, storage: FileFormat, key: Secret): Promise<number> {
  await rm(path, { force: true });
  return await createStock(path, storage, SIZE_BYTES, key);
}

async function disksToOpen(lab: DiskLab, storage: FileFormat, key: Secret) {
  const [encrypted, plain] = [someDisk({ storage }), someDisk({ storage, encryption: null })];
  await makeDisk(lab, encrypted, key);
  await makeDisk(lab, plain, key);
  const stock = join(lab.disksDirectory, `stock.${storage}`);
  await createStock(stock, storage, encrypted.sizeBytes, key);
  const driver = lab.driver(storage);
  return { ours: driver.attachment(encrypted).path, plain: driver.attachment(plain).path, stock };
}
