import { crashPoint } from '#core/crash-point.ts';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { DiskId, ImageId, ProjectId, SecretId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import { Secret } from '#core/secret.ts';
import { type Backup, isBackupKey } from '#db/backups.ts';
import type { Database } from '#db/database.ts';
import { isDiskKey, updateDisk } from '#db/disks.ts';
import { isImageKey } from '#db/images.ts';
import { appendAudit } from '#keys/audit.ts';
import type { KeyStore } from '#keys/key-store.ts';
import {
  closeLeases,
  type ImageKey,
  type LeasableDisk,
  type LeaseReason,
  leasable,
  leasableImage,
  openLeases,
} from '#keys/leases.ts';

/** The one way a key travels: stored, leased and audited, lent to one call, zeroed. */
export class KeyService {
  readonly #db: Database;
  readonly #store: KeyStore;

  constructor(db: Database, store: KeyStore) {
    this.#db = db;
    this.#store = store;
  }

  /**
   * Makes the key of an encrypted disk and stores it. On return the disk is `key-stored`.
   * *Repeat*: keeps the key that is stored. *Crash*: leaves a secret under the disk's label, which a repeat finds.
   */
  async createKey(disk: Disk, requestId: string): Promise<void> {
    if (disk.encryption === null || disk.state !== 'absent') return;
    using key = Secret.generate();
    const label = { projectId: disk.projectId, label: disk.id, name: secretName(disk) };
    const secretId = await this.#store.store(label, key);
    crashPoint('keys.create-key.stored');
    await this.#db.transaction().execute(async (tx) => {
      await appendAudit(tx, 'key-stored', this.#facts(disk, secretId, requestId));
      await updateDisk(tx, disk.id, { state: 'key-stored', secret_id: secretId });
    });
  }

  /**
   * Makes and stores the secret that is to open a formatted disk next, in this project. On return the disk is `rekeying`, and
   * its row names both. *Repeat*: keeps the one that is stored. *Crash*: leaves one under the disk's label, which a repeat
   * finds.
   */
  async createNextKey(disk: Disk, projectId: ProjectId, requestId: string): Promise<void> {
    if (disk.encryption === null || disk.state !== 'formatted') return;
    using key = Secret.generate();
    const label = { projectId, label: nextLabel(disk), name: secretName(disk) };
    const secretId = await this.#store.store(label, key);
    crashPoint('keys.create-next-key.stored');
    await this.#db.transaction().execute(async (tx) => {
      await appendAudit(tx, 'key-stored', { ...this.#facts(disk, secretId, requestId), project: projectId });
      await updateDisk(tx, disk.id, { state: 'rekeying', other_secret_id: secretId });
    });
  }

  /** Lends both keys of a disk that is `rekeying`, as `lend` does; `projectId`: whose the next one is. */
  async lendBoth(
    disk: Disk,
    projectId: ProjectId,
    requestId: string,
    use: (keys: { readonly old: Secret; readonly next: Secret }) => Promise<void>,
  ): Promise<void> {
    const old = leasable(disk);
    if (old === null || disk.otherSecretId === null) throw new Error(`disk ${disk.id} is not being rekeyed`);
    const next = { ...old, projectId, secretId: disk.otherSecretId };
    await this.#db.transaction().execute((tx) => openLeases(tx, [old, next], 'rekey', requestId));
    using oldKey = await this.#read(old);
    using nextKey = await this.#read(next);
    await use({ old: oldKey, next: nextKey });
  }

  /** Closes the leases of a disk for those of its secrets that it does not name as its own. *Repeat*: fine. */
  async closeOthers(disk: Pick<Disk, 'id' | 'secretId'>, requestId: string): Promise<void> {
    await this.#db.transaction().execute((tx) => closeLeases(tx, [disk.id], requestId, disk.secretId));
  }

  /** Destroys the key of a backup. *Repeat*: fine. */
  async destroyBackupKey({ id, project_id, secret_id }: Backup, requestId: string): Promise<void> {
    if (secret_id === null) return;
    await this.#store.delete(secret_id);
    crashPoint('keys.destroy-key.destroyed');
    const facts = { backup: id, project: project_id, secret: secret_id, request: requestId };
    await this.#db.transaction().execute((tx) => appendAudit(tx, 'key-destroyed', facts));
  }

  /** Destroys a secret that opens this disk no more, or never did. *Repeat*: fine. */
  async destroyFormerKey(disk: Disk, secretId: SecretId, requestId: string): Promise<void> {
    await this.#store.delete(secretId);
    crashPoint('keys.destroy-key.destroyed');
    const facts = this.#facts(disk, secretId, requestId);
    await this.#db.transaction().execute((tx) => appendAudit(tx, 'key-destroyed', facts));
  }

  /**
   * Lends the keys of those disks that are encrypted to `use`, for as long as its promise runs. The leases and the
   * audit records are durable before the first key is read. The leases stay open: `close` ends them once the disks are locked.
   * `image`: an encrypted image that one of the disks is made from; its key is lent under that disk's name.
   */
  async lend<T>(
    disks: readonly Disk[],
    reason: LeaseReason,
    requestId: string,
    use: (keys: ReadonlyMap<DiskId | ImageId, Secret>) => Promise<T>,
    image: ImageKey | null = null,
  ): Promise<T> {
    const ofImage = image === null ? [] : [leasableImage(image)];
    const leased = [...disks.map(leasable).filter((disk) => disk !== null), ...ofImage];
    if (leased.length > 0) {
      await this.#db.transaction().execute((tx) => openLeases(tx, leased, reason, requestId));
    }
    crashPoint('keys.lend.leased');
    using lent = new DisposableStack();
    const keys = new Map<DiskId | ImageId, Secret>();
    const reads = await Promise.allSettled(leased.map((disk) => this.#read(disk)));
    for (const [i, disk] of leased.entries()) {
      const read = reads[i];
      if (read?.status === 'fulfilled') keys.set(disk.imageId ?? disk.id, lent.use(read.value));
    }
    for (const read of reads) if (read.status === 'rejected') throw read.reason;
    return await use(keys);
  }

  /** Closes the leases of disks that are locked. *Repeat*: fine. */
  async close(disks: readonly Pick<Disk, 'id'>[], requestId: string): Promise<void> {
    const ids = disks.map((disk) => disk.id);
    await this.#db.transaction().execute((tx) => closeLeases(tx, ids, requestId));
  }

  /**
   * Destroys the key of a disk, also one that a crash left unnamed in the disk's row. That of a snapshot stays when an
   * image has taken it over, and that of a backup's disk when the backup has. *Repeat*: fine.
   */
  async destroyKey(disk: Disk, requestId: string): Promise<void> {
    const next = disk.otherSecretId ?? (await this.#store.find(nextLabel(disk)));
    if (next !== null) await this.destroyFormerKey(disk, next, requestId);
    const secretId = disk.secretId ?? (await this.#store.find(disk.id));
    if (secretId === null) return;
    if (disk.role === 'backup' && (await isBackupKey(this.#db, secretId))) return;
    const becomesImage = disk.role === 'snapshot' || disk.role === 'volume-image';
    if (becomesImage && (await isImageKey(this.#db, disk.projectId, secretId))) return;
    await this.#store.delete(secretId);
    crashPoint('keys.destroy-key.destroyed');
    await this.#db
      .transaction()
      .execute((tx) => appendAudit(tx, 'key-destroyed', this.#facts(disk, secretId, requestId)));
  }

  /**
   * Destroys the key of an image that was deleted, if the image says so and no disk and no other image needs it. A key of
   * another project that it names is left alone. *Repeat*: fine.
   */
  async destroyImageKey({ id, projectId, properties }: Image, requestId: string): Promise<void> {
    const encryption = imageEncryption(properties);
    const secretId = encryption?.deletesKey ? encryption.secretId : null;
    if (secretId === null || !(await this.#store.has(projectId, secretId))) return;
    if ((await isDiskKey(this.#db, secretId)) || (await isImageKey(this.#db, projectId, secretId))) return;
    await this.#store.delete(secretId);
    crashPoint('keys.destroy-key.destroyed');
    const facts = { image: id, project: projectId, secret: secretId, request: requestId };
    await this.#db.transaction().execute((tx) => appendAudit(tx, 'key-destroyed', facts));
  }

  async #read({ imageId, projectId, secretId }: LeasableDisk): Promise<Secret> {
    try {
      return await this.#store.get(projectId, secretId);
    } catch (error) {
      const isMissing = error instanceof NightlatchError && error.code === 'key-unavailable';
      if (imageId === null || !isMissing) throw error;
      const reason = `its os_encrypt_key_id ${secretId} is no secret of this project`;
      throw new NightlatchError('image-key-unavailable', { image: imageId, reason }, { cause: error });
    }
  }

  #facts(disk: Disk, secretId: string, requestId: string): Record<string, string | null> {
    return { disk: disk.id, project: disk.projectId, secret: secretId, host: disk.host, request: requestId };
  }
}

/** Differs from rekey to rekey, and stays the same while one is repeated. */
function nextLabel({ id, secretId }: Disk): string {
  return `${id} after ${secretId}`;
}

/** What an operator reads to know what a secret is for. */
function secretName(disk: Disk): string {
  switch (disk.role) {
    case 'volume':
      return `volume ${disk.ownerId}`;
    case 'volume-snapshot':
      return `snapshot ${disk.ownerId}`;
    case 'backup':
      return `backup ${disk.ownerId}`;
    case 'volume-image':
      return `image ${disk.ownerId}`;
    default:
      return `${disk.role} disk of server ${disk.ownerId}`;
  }
}
