import type { Readable } from 'node:stream';
import type { ImageId, ProjectId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';

/** For whom an image is looked for. */
export type ImageViewer = { readonly projectId: ProjectId; readonly isAdmin: boolean };

/** How a host gets the bytes of an image: in which format, and a way to open them as often as needed. */
export type ImageBytes = {
  readonly format: 'raw' | 'qcow2';
  /** By LUKS, in the layer that the format has for it. */
  readonly isEncrypted: boolean;
  open(): Promise<Readable>;
};

/** Where images are. Built in, or a Glance elsewhere. */
export interface ImageStore {
  /** The image, or null when there is none or this project may not see it; the two cannot be told apart. */
  find(id: ImageId, viewer: ImageViewer): Promise<Image | null>;

  /** Images of this name that the project may see without asking for them by id. */
  findNamed(name: string, viewer: ImageViewer): Promise<Image[]>;

  /** The image, whoever asks; null: there is none. */
  describe(id: ImageId): Promise<Image | null>;

  /** The bytes of an active image, checked at upload to be of that format. *Throws* not-found, when it has none. */
  openImage(id: ImageId): Promise<ImageBytes>;
}
