import type { Duplex } from 'node:stream';
import type { EncryptionIntent } from '#core/encryption-intent.ts';
import type { ImageId, ProjectId, ServerId, UserId, VolumeId } from '#core/ids.ts';
import type { ServerAction } from '#core/server.ts';
import type { Server, ServerReplacement } from '#db/servers.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';
import type { Particulars } from '#operations/context.ts';
import type { Outcome } from '#operations/engine.ts';
import type { Admit, VolumeRequest } from '#operations/volume-operations.ts';

/** Who asks, for the audit trail. */
export type Requester = { readonly userId: UserId; readonly projectId: ProjectId; readonly requestId: string };

export type { Outcome };

/** Who asks; of what the service does by itself there is no user. */
export type Actor = Requester | { readonly requestId: string };

/** A volume that a new server is to have: one that is there, or one that is made for it. */
export type ServerVolume = {
  readonly from:
    | { readonly kind: 'volume'; readonly id: VolumeId }
    | { readonly kind: 'new'; readonly request: VolumeRequest; readonly admit: Admit };
  /** 0: the server boots from it. Null: it never does. */
  readonly bootIndex: number | null;
  /** The device name that was wished for, as /dev/vdb; null: none. */
  readonly device: string | null;
  readonly deleteOnTermination: boolean;
};

/** A server as a user asked for it, already judged: flavor and image exist and fit, intent is free of conflict. */
export type ServerRequest = {
  readonly name: string;
  readonly description: string | null;
  readonly flavor: ServerFlavor;
  /** What its root disk is made from; null: it has none, and boots from a volume. */
  readonly image: { readonly id: ImageId; readonly virtualSizeBytes: number } | null;
  readonly volumes: readonly ServerVolume[];
  readonly intent: EncryptionIntent;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tags: readonly string[];
  /** Base64, as the API takes it; null: none. */
  readonly userData: string | null;
  readonly configDrive: boolean;
  readonly network: 'none' | 'user';
  /** The public key it is given; null: none. */
  readonly key: { readonly name: string; readonly publicKey: string } | null;
  /** What the guest is to call itself; null: made from the name. */
  readonly hostname: string | null;
  /** Position among the servers of one request, from 0. */
  readonly launchIndex: number;
  readonly diskConfig: 'AUTO' | 'MANUAL';
  readonly accessIpv4: string | null;
  readonly accessIpv6: string | null;
  /** Shared by the servers of one request that asked for several. */
  readonly reservationId: string;
};

/** An image of a server's root disk, as a user asked for it. */
export type ImageRequest = {
  readonly name: string;
  readonly properties: Readonly<Record<string, string>>;
  /** Of an encrypted disk. `new`: with a key of its own. `none`: it is in clear. */
  readonly encryption: 'new' | 'none';
};

/** What the API may set going. Each call returns as soon as the operation is durable; it goes on by itself. */
export interface ServerOperations {
  /**
   * Rows of the server, its disks and its volumes and the pending operations, in one transaction.
   * *Throws* block-device (400) for a volume that cannot be had; what `admit` of a volume throws.
   */
  create(request: ServerRequest, requester: Requester): Promise<Server>;

  /**
   * Starts an action on a server. Of two callers at once exactly one wins. `replacement`: what a resize or a rebuild is to
   * make of it.
   * *Throws* server-state (409) when the action is not allowed in the state the server is in.
   */
  act(
    action: ServerAction,
    serverId: ServerId,
    requester: Requester,
    particulars?: Particulars,
    replacement?: ServerReplacement | null,
  ): Promise<void>;

  /** As `act`, for an image of the server's root disk; returns its id. */
  createImage(serverId: ServerId, request: ImageRequest, requester: Requester): Promise<ImageId>;

  /** How operations went that are known by these ids. */
  outcomes(operations: readonly string[]): Promise<ReadonlyMap<string, Outcome>>;

  /** The last `bytes` bytes of the serial console; empty when the server has no host yet. */
  consoleLog(server: Server, bytes: number): Promise<Buffer>;

  /** A two-way stream to the guest's serial console. *Throws* server-state (409) when the guest does not run. */
  openConsole(server: Server): Promise<Duplex>;
}
