import { crashPoint } from '#core/crash-point.ts';
import type { DiskContent, DiskSpec, MediumContent } from '#core/disk.ts';
import type { DiskId, HostPath, ImageId } from '#core/ids.ts';
import { type DiskAccess, needKey } from '#host/disk-access.ts';
import type { CopyProgress, DiskKeys } from '#host/host-agent.ts';
import type { CachedImage, ImageCache } from '#host/image-cache.ts';
import { withImageSource } from '#host/image-source.ts';
import { receiveMedium } from '#host/medium-bytes.ts';
import { checkImageFits, type FillSource, fillDisk } from '#host/storage/fill.ts';
import type { PacedCopy } from '#host/storage/paced-copy.ts';

type Parts = { readonly disks: DiskAccess; readonly images: ImageCache; readonly runDirectory: HostPath };

/** Makes disks: allocates, formats, fills. See `HostAgent.createDisk`. */
export class DiskMaker {
  readonly #parts: Parts;
  readonly #copies = new Map<DiskId, PacedCopy>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async make(disk: DiskSpec, content: DiskContent, keys: DiskKeys): Promise<void> {
    await this.#parts.disks.lock(disk);
    switch (content.kind) {
      case 'clone':
        return await this.#clone(disk, content.from, keys);
      case 'medium':
        if (this.#parts.disks.canRekey(disk)) return await this.#receive(disk, content, keys);
        return await this.#receiveBeside(disk, content, keys);
      default:
        return await this.#fill(disk, content, keys);
    }
  }

  /** See `HostAgent.paceCopy`. */
  paceCopy({ id }: DiskSpec, bytesPerSecond: number): CopyProgress | null {
    return this.#copies.get(id)?.pace(bytesPerSecond) ?? null;
  }

  /** On return nothing is copied to the disk. */
  async endCopy({ id }: DiskSpec): Promise<void> {
    await this.#copies.get(id)?.end();
  }

  /** Of all disks; waits for none of them. */
  endCopies(): void {
    for (const copy of this.#copies.values()) void copy.end();
  }

  async #fill(disk: DiskSpec, content: DiskContent, keys: DiskKeys): Promise<void> {
    const { disks, runDirectory } = this.#parts;
    const key = keys.get(disk.id) ?? null;
    const driver = disks.driver(disk);
    const image = content.kind === 'image' ? await this.#findImage(content.imageId) : null;
    const backing = content.kind === 'image' && image?.encrypted === false ? { ...content, path: image.path } : null;
    if (backing) await checkImageFits(disk, backing.imageId, backing.path);
    const isShared = backing !== null && driver.capabilities.copyOnWrite.includes(disk.encryption);
    await driver.create(disk, isShared ? backing : null);
    crashPoint('agent.create-disk.allocated');
    if (disk.encryption !== null) {
      await disks.forgetHeaders(disk, null);
      await disks.encryptor(disk).format(disk, await disks.medium(disk), needKey(disk, key));
      await disks.keepHeader(disk);
    }
    crashPoint('agent.create-disk.formatted');
    if (content.kind === 'blank' || isShared) return;
    const isZeroed = disk.encryption === null || driver.capabilities.zeroUntilWritten;
    const fill = (source: Pick<FillSource, 'sourceFile' | 'sourceImage' | 'onCopy'>) =>
      disks.withPlaintext(disk, key, (path) => fillDisk(disk, content, path, { ...source, isZeroed, runDirectory }));
    if (content.kind === 'disk') {
      const fromKey = keys.get(content.from.id) ?? null;
      const onCopy = (copy: PacedCopy) => void this.#copies.set(disk.id, copy);
      const copying = disks.withPlaintext(content.from, fromKey, (sourceFile) => fill({ sourceFile, onCopy }));
      return await copying.finally(() => this.#copies.delete(disk.id));
    }
    if (content.kind !== 'image' || !image?.encrypted) return await fill({ sourceFile: backing?.path ?? null });
    const { imageId } = content;
    await withImageSource(imageId, image, keys, (sourceImage) => fill({ sourceFile: null, sourceImage }));
  }

  async #clone(disk: DiskSpec, from: DiskSpec, keys: DiskKeys): Promise<void> {
    const { disks } = this.#parts;
    if (from.storage !== disk.storage || from.encryption !== disk.encryption) {
      throw new Error(`disk ${disk.id} is of another kind than ${from.id}, whose medium it is to be a copy of`);
    }
    disks.checkRekeys(disk);
    const asLarge = { ...disk, sizeBytes: checkedSize(disk, from.sizeBytes) };
    await disks.driver(disk).copy(disks.driver(from).attachment(from), asLarge);
    crashPoint('agent.create-disk.allocated');
    await this.#finish(disk, asLarge, from.id, keys);
  }

  async #receive(disk: DiskSpec, content: MediumContent, keys: DiskKeys): Promise<void> {
    const { disks } = this.#parts;
    const driver = disks.driver(disk);
    disks.checkRekeys(disk);
    const asLarge = { ...disk, sizeBytes: checkedSize(disk, content.sizeBytes) };
    const { format } = driver.attachment(asLarge);
    if (format !== content.format) throw new Error(`a disk that lies as ${format} is no place for ${content.format}`);
    await driver.create(asLarge, null);
    crashPoint('agent.create-disk.allocated');
    await receiveMedium(driver.attachment(asLarge), await content.open(), `Restoring disk ${disk.id}`);
    await this.#finish(disk, asLarge, content.keyId, keys);
  }

  /**
   * What has no header to change is received beside the disk, as it was, and encrypted anew from there. *Crash*: what lies
   * beside it is removed by the repeat.
   */
  async #receiveBeside(disk: DiskSpec, content: MediumContent, keys: DiskKeys): Promise<void> {
    const { disks } = this.#parts;
    const from: DiskSpec = {
      ...disk,
      id: content.keyId,
      role: 'backup',
      sizeBytes: checkedSize(disk, content.sizeBytes),
    };
    const driver = disks.driver(from);
    try {
      await disks.lock(from);
      await driver.create(from, null);
      await receiveMedium(driver.attachment(from), await content.open(), `Restoring disk ${disk.id}`);
      await this.#fill(disk, { kind: 'disk', from }, keys);
    } finally {
      await driver.delete(from);
    }
  }

  /** Gives a copied medium its own key and its own size. */
  async #finish(disk: DiskSpec, asLarge: DiskSpec, fromId: DiskSpec['id'], keys: DiskKeys): Promise<void> {
    const { disks } = this.#parts;
    if (disk.encryption !== null) {
      const fromKey = keys.get(fromId);
      if (!fromKey) throw new Error(`the copy ${disk.id} was given no key of what it is a copy of`);
      if (disk.secretId === null) throw new Error(`the copy ${disk.id} names no secret`);
      await disks.forgetHeaders(disk, null);
      await disks.rekey(asLarge, { from: fromKey, to: needKey(disk, keys.get(disk.id)) }, disk.secretId, true);
    }
    crashPoint('agent.create-disk.formatted');
    if (disk.sizeBytes > asLarge.sizeBytes) await disks.driver(disk).grow(disk, asLarge.sizeBytes);
  }

  async #findImage(imageId: ImageId): Promise<CachedImage> {
    const image = await this.#parts.images.find(imageId);
    if (image === null) throw new Error(`image ${imageId} was not brought to this host`);
    return image;
  }
}

function checkedSize(disk: DiskSpec, fromBytes: number): number {
  if (fromBytes <= disk.sizeBytes) return fromBytes;
  throw new Error(`disk ${disk.id} has ${disk.sizeBytes} bytes, and what it is to hold ${fromBytes}`);
}
