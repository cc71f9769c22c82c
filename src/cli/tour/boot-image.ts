import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { CloudClient } from '#cli/cloud/client.ts';
import { buildGuestImage } from '#cli/guest-image/guest-image.ts';
import { must, type Told } from '#cli/tour/narrator.ts';
import { describeError } from '#core/errors.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { readUpTo } from '#host/files.ts';

/** What the tour's images, flavors and servers are called. */
export const TOUR_NAME = 'nightlatch-tour';

/** An image in the image service, with what a server made from it needs. */
export type BootImage = {
  readonly id: string;
  readonly ramMib: number;
  readonly rootGib: number;
  /** How long its guest may take to boot under emulation. */
  readonly bootMs: number;
};

type LocalImage = { readonly path: string; readonly format: 'raw' | 'qcow2'; readonly isOurs: boolean };

const OWN_BOOT_MS = 180_000;
const CLOUD_BOOT_MS = 900_000;
const QCOW2_MAGIC = Buffer.from('QFI\xfb', 'latin1');
const BOOT_SIGNATURE = 0xaa55;

/**
 * Builds the guest image, or takes the user's, and uploads it; one that an earlier tour uploaded is taken again when its
 * hash is that of the file.
 */
export async function provideImage(
  client: CloudClient,
  options: { readonly file: string | null; readonly cacheDirectory: string; readonly progress: (line: string) => void },
): Promise<Told<BootImage>> {
  const local = options.file === null ? await buildOwn(options) : await examine(options.file);
  const { size } = await stat(local.path);
  const sha512 = await hashFile(local.path);
  const known = await findUploaded(client, sha512);
  if (known === null) options.progress('uploading it');
  const id = known ?? (await client.uploadImage(TOUR_NAME, local.path, local.format));
  const image = await client.expect('image', 'GET', `/v2/images/${id}`);
  must(image.status === 'active', `the uploaded image is ${image.status}`);
  must(image.os_hash_value === sha512, 'the image service has other bytes than the file');
  return {
    value: needs(local, id, image.virtual_size),
    evidence: [
      { lookedAt: 'the file', found: `${nameOf(local)}, ${local.format}, ${(size / MIB).toFixed(0)} MiB` },
      {
        lookedAt: `image ${id.slice(0, 8)}…`,
        found: `${image.status}, SHA-512 ${sha512.slice(0, 16)}…, as the file${known === null ? '' : '; uploaded by an earlier tour'}`,
      },
    ],
  };
}

/** Ours is named after the packages it is made of. */
function nameOf({ path, isOurs }: LocalImage): string {
  const packages = /^guest-(.*-amd64)-.*-busybox-/.exec(basename(path))?.[1];
  return isOurs && packages ? `Debian's ${packages} and busybox` : basename(path);
}

function needs({ isOurs }: LocalImage, id: string, virtualBytes: number): BootImage {
  if (isOurs) return { id, ramMib: 256, rootGib: 1, bootMs: OWN_BOOT_MS };
  return { id, ramMib: 1024, rootGib: Math.max(1, Math.ceil(virtualBytes / GIB)), bootMs: CLOUD_BOOT_MS };
}

async function buildOwn({ cacheDirectory, progress }: { cacheDirectory: string; progress: (line: string) => void }) {
  const { path } = await buildGuestImage({ cacheDirectory, progress });
  return { path, format: 'raw', isOurs: true } as const;
}

/** The format by the file's first bytes. @throws when it is no disk image that a machine could boot. */
async function examine(path: string): Promise<LocalImage> {
  const head = await readHead(path);
  if (head.subarray(0, QCOW2_MAGIC.length).equals(QCOW2_MAGIC)) return { path, format: 'qcow2', isOurs: false };
  const boots = head.length === 512 && head.readUInt16LE(510) === BOOT_SIGNATURE;
  must(
    boots,
    `${path} is no disk image: it is neither qcow2 nor a raw disk with a boot sector. Give a cloud image, as its ` +
      'distribution offers it for OpenStack, uncompressed.',
  );
  return { path, format: 'raw', isOurs: false };
}

async function readHead(path: string): Promise<Buffer> {
  try {
    await using file = await open(path, 'r');
    return await readUpTo(file, 512, 0);
  } catch (error) {
    throw new Error(`Reading the image ${path} failed: ${describeError(error)}`, { cause: error });
  }
}

/** The tour's image with these bytes, if it is there. Others of that name are from older images, and are deleted. */
async function findUploaded(client: CloudClient, sha512: string): Promise<string | null> {
  const { images } = await client.expect('image', 'GET', `/v2/images?name=${TOUR_NAME}`);
  let found: string | null = null;
  for (const image of images) {
    if (found === null && image.status === 'active' && image.os_hash_value === sha512) found = image.id;
    else await client.expect('image', 'DELETE', `/v2/images/${image.id}`);
  }
  return found;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha512');
  await pipeline(createReadStream(path, { highWaterMark: MIB }), hash);
  return hash.digest('hex');
}
