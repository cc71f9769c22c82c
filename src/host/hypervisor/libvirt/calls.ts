import { type Handle, native, takeHandles } from './binding.ts';
import type { CallName, Calls } from './protocol.ts';

/** A libvirt call that failed, with libvirt's error number (virErrorNumber). */
export class LibvirtError extends Error {
  readonly code: number;
  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** virErrorNumber: there is no such domain, secret. */
export const NO_DOMAIN = 42;
export const NO_SECRET = 66;

// Numbers of libvirt's public interface.
const ACTIVE_DOMAINS = 1;
const METADATA_ELEMENT = 2;
const SHUTDOWN_BY_ACPI = 1;
const RESTORE_PAUSED = 4;
const USAGE_TYPE_VOLUME = 1;
/** The domain that runs; it has no other. */
const AFFECT_LIVE = 1;
const RESIZE_IN_BYTES = 1;
/** Reuse the file, which is there and formatted; the job need not outlast the domain. */
const COPY_TO_EXISTING = 2 | 4;
/** Besides: a write of the guest has ended only when it is in the copy too (libvirt 8.0). */
const COPY_WRITES_AT_ONCE = 8;
const SPEED_IN_BYTES = 1;
const ABORT_BY_PIVOT = 2;
/** struct virTypedParameter: char field[80], int type, a union of 8 bytes; of the type unsigned long long. */
const TYPED_PARAMETER = { bytes: 96, typeAt: 80, valueAt: 88, unsignedLongLong: 4 };
/** struct virDomainBlockJobInfo: int type, unsigned long bandwidth, unsigned long long cur, end. */
const BLOCK_JOB_INFO_BYTES = 32;
/** struct virDomainBlockInfo: unsigned long long capacity, allocation, physical. */
const BLOCK_INFO_BYTES = 24;

type Implementation = {
  [Name in CallName]: (connection: Handle, key: Buffer, ...args: Calls[Name]['args']) => Calls[Name]['result'];
};

/** What each call does. Synchronous, because libvirt keeps the last error per thread: it is read in the same turn. */
export const calls: Implementation = {
  ping: (connection) => done(native.virConnectGetLibVersion(connection, [0])),

  createDomain(connection, _key, xml) {
    native.virDomainFree(found(native.virDomainCreateXML(connection, xml, 0)));
    return null;
  },
  domainState: (connection, _key, uuid) => withDomain(connection, uuid, domainState),
  listDomains(connection, _key, namespace) {
    return listHandles(connection, native.virConnectListAllDomains, ACTIVE_DOMAINS, native.virDomainFree, (domain) => {
      // Null also when it ended this moment, which is as good as not ours.
      if (native.virDomainGetMetadata(domain, METADATA_ELEMENT, namespace, 0) === null) return [];
      const state = domainState(domain);
      return state === null ? [] : [{ uuid: domainUuid(domain), name: native.virDomainGetName(domain), state }];
    });
  },
  shutdownDomain: (connection, _key, uuid) =>
    did(connection, uuid, (domain) => native.virDomainShutdownFlags(domain, SHUTDOWN_BY_ACPI)),
  destroyDomain: (connection, _key, uuid) => did(connection, uuid, (domain) => native.virDomainDestroyFlags(domain, 0)),
  suspendDomain: (connection, _key, uuid) => did(connection, uuid, native.virDomainSuspend),
  resumeDomain: (connection, _key, uuid) => did(connection, uuid, native.virDomainResume),
  copyDisk: (connection, _key, uuid, disk, xml) =>
    did(connection, uuid, (domain) => native.virDomainBlockCopy(domain, disk, xml, null, 0, COPY_TO_EXISTING)),
  copyProgress(connection, _key, uuid, disk) {
    const job = withDomain(connection, uuid, (domain) => blockJob(domain, disk));
    // libvirt makes the two equal only once all was copied and every write goes to both.
    const isWhole = job !== null && job.end > 0n && job.at === job.end;
    return job && { isWhole, copiedBytes: Number(job.at), totalBytes: Number(job.end) };
  },
  mirrorDisk: (connection, _key, uuid, disk, xml, bytesPerSecond) =>
    did(connection, uuid, (domain) => {
      const flags = COPY_TO_EXISTING | COPY_WRITES_AT_ONCE;
      return native.virDomainBlockCopy(domain, disk, xml, bandwidthParameter(bytesPerSecond), 1, flags);
    }),
  setCopySpeed: (connection, _key, uuid, disk, bytesPerSecond) =>
    did(connection, uuid, (domain) =>
      native.virDomainBlockJobSetSpeed(domain, disk, BigInt(bytesPerSecond), SPEED_IN_BYTES),
    ),
  pivot: (connection, _key, uuid, disk) =>
    did(connection, uuid, (domain) => native.virDomainBlockJobAbort(domain, disk, ABORT_BY_PIVOT)),
  endCopy: (connection, _key, uuid, disk) =>
    did(connection, uuid, (domain) =>
      blockJob(domain, disk) === null ? 0 : native.virDomainBlockJobAbort(domain, disk, 0),
    ),
  domainXml: (connection, _key, uuid) =>
    withDomain(connection, uuid, (domain) => found(native.virDomainGetXMLDesc(domain, 0))),
  attachDevice: (connection, _key, uuid, xml) =>
    did(connection, uuid, (domain) => native.virDomainAttachDeviceFlags(domain, xml, AFFECT_LIVE)),
  detachDevice: (connection, _key, uuid, xml) =>
    did(connection, uuid, (domain) => native.virDomainDetachDeviceFlags(domain, xml, AFFECT_LIVE)),
  diskBytes: (connection, _key, uuid, disk) =>
    withDomain(connection, uuid, (domain) => {
      const info = Buffer.alloc(BLOCK_INFO_BYTES);
      done(native.virDomainGetBlockInfo(domain, disk, info, 0));
      return Number(info.readBigUInt64LE(0));
    }),
  resizeDisk: (connection, _key, uuid, disk, bytes) =>
    did(connection, uuid, (domain) => native.virDomainBlockResize(domain, disk, BigInt(bytes), RESIZE_IN_BYTES)),
  saveDomain: (connection, _key, uuid, file) =>
    did(connection, uuid, (domain) => native.virDomainSaveFlags(domain, file, null, 0)),
  savedXml: (connection, _key, file) => found(native.virDomainSaveImageGetXMLDesc(connection, file, 0)),
  restoreDomain: (connection, _key, file, xml) =>
    done(native.virDomainRestoreFlags(connection, file, xml, RESTORE_PAUSED)),

  setSecrets(connection, key, ...args) {
    let used = 0;
    for (let i = 0; i < args.length; i += 3) {
      const [xml = '', usage = '', length = ''] = args.slice(i, i + 3);
      const start = used;
      used += Number(length);
      setSecret(connection, xml, usage, key.subarray(start, used));
    }
    return null;
  },
  undefineSecrets(connection, _key, ...uuids) {
    const failures: unknown[] = [];
    for (const uuid of uuids) {
      try {
        undefine(native.virSecretLookupByUUIDString(connection, uuid));
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
    return null;
  },
  listSecrets: (connection, _key, prefix) => eachSecret(connection, prefix, () => {}),
  forgetSecrets(connection, _key, prefix) {
    eachSecret(connection, prefix, (secret) => done(native.virSecretUndefine(secret)));
    return null;
  },
};

function setSecret(connection: Handle, xml: string, usage: string, key: Buffer): void {
  undefine(native.virSecretLookupByUsage(connection, USAGE_TYPE_VOLUME, usage));
  const secret = found(native.virSecretDefineXML(connection, xml, 0));
  try {
    done(native.virSecretSetValue(secret, key, key.length, 0));
  } finally {
    native.virSecretFree(secret);
  }
}

function eachSecret(connection: Handle, prefix: string, visit: (secret: Handle) => void): string[] {
  return listHandles(connection, native.virConnectListAllSecrets, 0, native.virSecretFree, (secret) => {
    const usage = native.virSecretGetUsageID(secret);
    if (!usage.startsWith(prefix)) return [];
    visit(secret);
    return [usage];
  });
}

function listHandles<T>(
  connection: Handle,
  list: (connection: Handle, array: unknown[], flags: number) => number,
  flags: number,
  free: (handle: Handle) => number,
  read: (handle: Handle) => T[],
): T[] {
  const array: unknown[] = [null];
  const count = list(connection, array, flags);
  if (count < 0) throw lastError();
  const handles = takeHandles(array[0], count);
  try {
    return handles.flatMap(read);
  } finally {
    for (const handle of handles) free(handle);
  }
}

/** Null: there is no such domain, or it ended during the call. */
function withDomain<T>(connection: Handle, uuid: string, act: (domain: Handle) => T): T | null {
  const domain = native.virDomainLookupByUUIDString(connection, uuid);
  try {
    return act(found(domain));
  } catch (error) {
    if (error instanceof LibvirtError && error.code === NO_DOMAIN) return null;
    throw error;
  } finally {
    if (domain !== null) native.virDomainFree(domain);
  }
}

function did(connection: Handle, uuid: string, act: (domain: Handle) => number): boolean {
  return withDomain(connection, uuid, (domain) => done(act(domain)) === null) ?? false;
}

function blockJob(domain: Handle, disk: string): { readonly at: bigint; readonly end: bigint } | null {
  const info = Buffer.alloc(BLOCK_JOB_INFO_BYTES);
  const found = native.virDomainGetBlockJobInfo(domain, disk, info, 0);
  if (found < 0) throw lastError();
  return found === 0 ? null : { at: info.readBigUInt64LE(16), end: info.readBigUInt64LE(24) };
}

/** VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, in bytes per second. */
function bandwidthParameter(bytesPerSecond: string): Buffer {
  const parameter = Buffer.alloc(TYPED_PARAMETER.bytes);
  parameter.write('bandwidth', 'latin1');
  parameter.writeInt32LE(TYPED_PARAMETER.unsignedLongLong, TYPED_PARAMETER.typeAt);
  parameter.writeBigUInt64LE(BigInt(bytesPerSecond), TYPED_PARAMETER.valueAt);
  return parameter;
}

function domainState(domain: Handle): number | null {
  const state = [0];
  if (native.virDomainGetState(domain, state, [0], 0) === 0) return state[0] ?? null;
  const error = lastError();
  if (error.code === NO_DOMAIN) return null;
  throw error;
}

/** The UUID of a domain, in libvirt's spelling, which is ours: lower case with hyphens. */
export function domainUuid(domain: Handle): string {
  const text = Buffer.alloc(37);
  done(native.virDomainGetUUIDString(domain, text));
  return text.toString('latin1', 0, 36);
}

function undefine(secret: Handle | null): void {
  if (secret === null) {
    const error = lastError();
    if (error.code === NO_SECRET) return;
    throw error;
  }
  try {
    done(native.virSecretUndefine(secret));
  } finally {
    native.virSecretFree(secret);
  }
}

function done(status: number): null {
  if (status < 0) throw lastError();
  return null;
}

function found<T>(value: T | null): T {
  if (value === null) throw lastError();
  return value;
}

/** The last error of this thread, as libvirt words it. */
export function lastError(): LibvirtError {
  return new LibvirtError(native.virGetLastErrorCode(), native.virGetLastErrorMessage());
}
