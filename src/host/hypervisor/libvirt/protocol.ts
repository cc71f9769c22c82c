/** A domain as libvirt sees it; `state` is libvirt's number (virDomainState). */
export type FoundDomain = { readonly uuid: string; readonly name: string; readonly state: number };

/** `isWhole`: all is copied, and every write goes to both. */
export type CopyProgress = { readonly isWhole: boolean; readonly copiedBytes: number; readonly totalBytes: number };

/**
 * What a call worker can be asked, each a short series of libvirt calls: arguments and result. A key is never among
 * the arguments; it comes by descriptor 4.
 */
export type Calls = {
  /** Does the connection work? */
  ping: { args: []; result: null };
  createDomain: { args: [xml: string]; result: null };
  /** Null: there is none. */
  domainState: { args: [uuid: string]; result: number | null };
  /** Active domains that carry our metadata. */
  listDomains: { args: [metadataNamespace: string]; result: FoundDomain[] };
  /** These return false when there is no such domain. */
  shutdownDomain: { args: [uuid: string]; result: boolean };
  destroyDomain: { args: [uuid: string]; result: boolean };
  suspendDomain: { args: [uuid: string]; result: boolean };
  resumeDomain: { args: [uuid: string]; result: boolean };
  /** Starts to copy a disk onto what the XML says; false: there is no such domain. */
  copyDisk: { args: [uuid: string, disk: string, xml: string]; result: boolean };
  /** How far the copying is; null: there is no such domain, or no copying. */
  copyProgress: { args: [uuid: string, disk: string]; result: CopyProgress | null };
  /** As `copyDisk`, at most so fast (0: as fast as it goes), with every write of the guest to both as soon as it is made. */
  mirrorDisk: { args: [uuid: string, disk: string, xml: string, bytesPerSecond: string]; result: boolean };
  /** False: there is no such domain. */
  setCopySpeed: { args: [uuid: string, disk: string, bytesPerSecond: string]; result: boolean };
  /** Ends a copy that is whole by making it the disk; on return it is, and QEMU has closed what the disk was. False as above. */
  pivot: { args: [uuid: string, disk: string]; result: boolean };
  /** Ends copying, if there is any; a copy that was whole is one as of this moment. False as above. */
  endCopy: { args: [uuid: string, disk: string]; result: boolean };
  /** Null: there is no such domain. */
  domainXml: { args: [uuid: string]; result: string | null };
  /** These return false when there is no such domain. */
  attachDevice: { args: [uuid: string, xml: string]; result: boolean };
  /** Asks the guest, and waits for it some seconds; true does not say that it has let go. */
  detachDevice: { args: [uuid: string, xml: string]; result: boolean };
  /** Null: there is no such domain. */
  diskBytes: { args: [uuid: string, disk: string]; result: number | null };
  /** False: there is no such domain. */
  resizeDisk: { args: [uuid: string, disk: string, bytes: string]; result: boolean };
  saveDomain: { args: [uuid: string, file: string]; result: boolean };
  savedXml: { args: [file: string]; result: string };
  restoreDomain: { args: [file: string, xml: string]; result: null };
  /**
   * Defines secrets, of each its XML, its usage and how many of the key's bytes are its own; the key holds the bytes of
   * all, one after the other. One that has the same usage is replaced.
   */
  setSecrets: { args: string[]; result: null };
  /** Undefines all of them that there are, also when one of them fails. */
  undefineSecrets: { args: string[]; result: null };
  /** Usages that start with `prefix`. */
  listSecrets: { args: [prefix: string]; result: string[] };
  /** Undefines all whose usage starts with `prefix`. */
  forgetSecrets: { args: [prefix: string]; result: null };
};

export type CallName = keyof Calls;

export type Request = {
  readonly id: number;
  readonly name: CallName;
  readonly args: readonly string[];
  /** So many bytes of a key wait on descriptor 4. */
  readonly keyBytes: number;
};

/** `begun` is sent before the first libvirt call, so that a worker that died before it has changed nothing. */
export type Reply =
  | { readonly kind: 'begun'; readonly id: number }
  | { readonly kind: 'done'; readonly id: number; readonly result: unknown }
  /** `lost`: the connection to libvirt broke, so that nobody knows how far the call came. */
  | {
      readonly kind: 'failed';
      readonly id: number;
      readonly code: number;
      readonly lost: boolean;
      readonly message: string;
    };

/** What the event worker tells. */
export type Notice =
  | { readonly kind: 'connected' }
  /** The last it tells. */
  | { readonly kind: 'unreachable'; readonly reason: string }
  | { readonly kind: 'lifecycle'; readonly uuid: string; readonly event: number; readonly detail: number };
