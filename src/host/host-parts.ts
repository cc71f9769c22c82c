import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostName, HostPath } from '#core/ids.ts';
import type { DiskParts } from '#host/disk-access.ts';
import type { Hypervisor } from '#host/hypervisor/hypervisor.ts';
import type { ImageCache } from '#host/image-cache.ts';

/** What a host agent is made of; `main` chooses the parts. */
export type HostParts = DiskParts & {
  readonly name: HostName;
  readonly virtType: 'kvm' | 'qemu';
  /** How new disks are stored. */
  readonly storage: DiskSpec['storage'];
  readonly defaultEncryptionFormat: EncryptionFormat;
  readonly undecidedEncryptionFormat: EncryptionFormat | null;
  readonly disksDirectory: HostPath;
  readonly runDirectory: HostPath;
  /** Whether keys leave the kernel while their guest is paused. */
  readonly lockOnPause: boolean;
  readonly images: ImageCache;
  readonly hypervisor: Hypervisor;
  /** The volume groups in which disks may be logical volumes. */
  readonly volumeGroups: readonly string[];
  /** The pools in which disks may be images. */
  readonly pools: readonly string[];
  /** All that is configured about how disks are stored and encrypted, as text: another text is another host. */
  readonly storageSettings: string;
};
