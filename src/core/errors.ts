/**
 * The error catalogue: every way a request or an operation can fail, with its stable code, its HTTP status, whether
 * trying again can help, and the sentence a user reads.
 *
 * A sentence says what was being done to what, what happened, and what to do. `{name}` is replaced by a detail.
 */
const catalogue = {
  // Requests.
  'bad-request': { status: 400, retry: 'after-change', text: '{reason}' },
  unauthorized: { status: 401, retry: 'after-change', text: 'The request you have made requires authentication.' },
  forbidden: { status: 403, retry: 'after-change', text: "Policy doesn't allow {action} to be performed." },
  'not-found': { status: 404, retry: 'after-change', text: '{kind} {id} could not be found.' },
  'not-there': { status: 404, retry: 'after-change', text: '{reason}' },
  refused: { status: 403, retry: 'after-change', text: '{reason}' },
  'method-not-allowed': { status: 405, retry: 'never', text: 'The method {method} is not allowed for {path}.' },
  'not-acceptable-version': {
    status: 406,
    retry: 'after-change',
    text: 'Version {version} is not supported by the API. Minimum is {min} and maximum is {max}.',
  },
  conflict: { status: 409, retry: 'after-change', text: '{reason}' },
  'server-state': {
    status: 409,
    retry: 'later',
    text: "Cannot '{action}' instance {id} while it is in {attribute} {state}",
  },
  'volume-state': {
    status: 400,
    retry: 'later',
    text: 'Invalid volume: Volume {volume} status must be {allowed} to {action} it, but current status is: {status}.',
  },
  'backup-state': {
    status: 400,
    retry: 'later',
    text: 'Invalid backup: Backup {backup} status must be {allowed} to {action} it, but current status is: {status}.',
  },
  'snapshot-state': {
    status: 400,
    retry: 'later',
    text: 'Invalid snapshot: Snapshot {snapshot} status must be {allowed} to {action} it, but current status is: {status}.',
  },
  'attachment-state': {
    status: 400,
    retry: 'later',
    text: 'Invalid volume: Attachment {attachment} must be {allowed} for this, but its status is: {status}.',
  },
  'over-quota': { status: 413, retry: 'after-change', text: '{reason}' },
  'too-large': { status: 413, retry: 'after-change', text: '{reason}' },
  'unsupported-media-type': { status: 415, retry: 'after-change', text: '{reason}' },
  'not-implemented': { status: 501, retry: 'never', text: '{reason}' },
  'service-unavailable': { status: 503, retry: 'later', text: '{reason}' },

  // Encryption intent.
  'encryption-conflict': {
    status: 400,
    retry: 'after-change',
    text: 'Flavor {flavor} has {flavorKey}={flavorValue} but image {image} has {imageKey}={imageValue}. Make them agree or remove one.',
  },
  'encryption-format-invalid': {
    status: 400,
    retry: 'after-change',
    text: "{key} is '{value}', which is not an encryption format. Use one of: {formats}.",
  },
  'encryption-change': {
    status: 400,
    retry: 'after-change',
    text: 'Server {server} was not resized: flavor {flavor} asks for another encryption than its disks have. Choose a flavor that asks for the same, or rebuild the server.',
  },

  // Operations. These become the fault of a server.
  'no-valid-host': {
    status: 500,
    retry: 'after-change',
    text: 'No valid host was found. {reason}',
  },
  'cluster-key-missing': {
    status: 500,
    retry: 'after-change',
    text: 'The cephx key of {name} is in none of the keyrings that the cluster’s configuration names: {files}. Put it there, readable for the service.',
  },
  'default-volume-type-missing': {
    status: 500,
    retry: 'after-change',
    text: 'The request cannot be fulfilled as the default volume type {name} cannot be found. Create it, or name another in [DEFAULT] default_volume_type.',
  },
  'backup-damaged': {
    status: 500,
    retry: 'after-change',
    text: 'Reading a backup failed: {reason}. Nothing was restored. Use another backup.',
  },
  'backup-store-refused': {
    status: 500,
    retry: 'after-change',
    text: '{doing} failed: the backup store {where} refused it ({reason}). Check that the bucket exists and that the access key, its secret key and its rights in [backup] are right.',
  },
  'backup-store-unavailable': {
    status: 500,
    retry: 'later',
    text: '{doing} failed: the backup store {where} did not answer as it should ({reason}). Check that it runs and can be reached from here, then try again.',
  },
  'no-valid-backend': {
    status: 500,
    retry: 'after-change',
    text: 'No valid backend was found. {reason}',
  },
  'block-device': { status: 400, retry: 'after-change', text: 'Block Device Mapping is Invalid: {reason}' },
  'volume-elsewhere': {
    status: 400,
    retry: 'after-change',
    text: 'Invalid volume: Volume {volume} lies on host {host} and server {server} is on host {other}. Volumes are served to servers on their own host only.',
  },
  'server-unplaced': {
    status: 409,
    retry: 'after-change',
    text: 'Server {server} is on no host: its creation failed before it was given one. Delete it and create it again.',
  },
  'host-unavailable': {
    status: 503,
    retry: 'later',
    text: 'Asking host {host} to {doing} failed: {reason}. Guests there run on. Check that "nightlatch host-agent" runs on it and that the network between is up, then try again.',
  },
  'key-unavailable': {
    status: 500,
    retry: 'later',
    text: 'Reading the key of disk {disk} failed: {reason}. The disk stays locked; nothing was changed.',
  },
  'key-corrupt': {
    status: 500,
    retry: 'never',
    text: 'The stored key {secret} cannot be unwrapped: {reason}. Check that the root key is the one it was stored under.',
  },
  'disk-header-missing': {
    status: 500,
    retry: 'after-change',
    text: 'Disk {disk} has no readable {format} header at {path}. It was not formatted again. Restore its header from a backup{backup}.',
  },
  'header-backup-missing': {
    status: 404,
    retry: 'after-change',
    text: 'Restoring the header of disk {disk} was not begun: there is {reason}. Nothing was changed.',
  },
  'header-backup-unusable': {
    status: 500,
    retry: 'after-change',
    text: 'Restoring the header of disk {disk} was not begun: its backup cannot be used ({reason}). Nothing was changed. Try another version.',
  },
  'disk-in-use': {
    status: 409,
    retry: 'after-change',
    text: '{doing} was not begun: disk {disk} is open ({reason}). Nothing was changed. Detach the volume or stop its server first.',
  },
  'disk-missing': {
    status: 500,
    retry: 'after-change',
    text: 'Disk {disk} is not there: {path} {reason}. Nothing was changed.',
  },
  'disk-not-ours': {
    status: 500,
    retry: 'after-change',
    text: '{doing} was not begun: {path} exists already and was not made for this disk. Rename it or remove it yourself.',
  },
  'mapping-unexpected': {
    status: 500,
    retry: 'after-change',
    text: 'Unlocking disk {disk} failed: the mapping {mapping} is not what it should be ({reason}). It was closed again.',
  },
  'device-mapper-unusable': {
    status: 500,
    retry: 'after-change',
    text: '{doing} failed: {reason}',
  },
  'disk-wrong-key': {
    status: 500,
    retry: 'after-change',
    text: 'The key of disk {disk} does not open it. The disk stays locked; nothing was changed. If its header is damaged, restore it: see "nightlatch volume header list".',
  },
  'disk-locked': {
    status: 500,
    retry: 'after-change',
    text: '{doing} was not begun: the key of disk {disk} is not on the host. Nothing was changed.',
  },
  'medium-damaged': {
    status: 500,
    retry: 'after-change',
    text: '{doing} failed: what it was to be made of is damaged ({reason}). Try another backup.',
  },
  'volume-not-moved': {
    status: 500,
    retry: 'after-change',
    text: 'Moving the data of volume {volume} failed: {reason}. The volume is as it was, and its guest goes on. Change that, then try again.',
  },
  'volume-not-released': {
    status: 500,
    retry: 'later',
    text: 'Detaching volume {volume} from server {server} failed: its guest did not let go of it within {seconds} s. It stays attached. Unmount it in the guest, then try again, or stop the server first.',
  },
  'pause-keeps-key': {
    status: 409,
    retry: 'after-change',
    text: 'Pausing server {server} was not begun: this host forgets keys while a server is paused ([libvirt] lock_on_pause), and QEMU would keep that of disk {disk}, which it decrypts itself. The server runs on. Suspend it instead.',
  },
  'disk-full': {
    status: 500,
    retry: 'later',
    text: '{doing} failed: no space left on {where}. Free space there, then try again.',
  },
  'image-key-unavailable': {
    status: 500,
    retry: 'after-change',
    text: 'Reading the key of image {image} failed: {reason}. No disk was made from it. Use another image.',
  },
  'image-wrong-key': {
    status: 500,
    retry: 'after-change',
    text: 'The key of image {image} does not open it: os_encrypt_key_id names another key. No disk was made from it.',
  },
  'encrypted-image-refused': { status: 403, retry: 'after-change', text: 'Image {image} was refused: {reason}.' },
  'encrypted-image-conflict': {
    status: 409,
    retry: 'after-change',
    text: 'Image {image} is encrypted but {where} has {key}={value}: its data would lie on the host in clear. Remove that, or use an image that is not encrypted.',
  },
  'image-invalid': { status: 400, retry: 'after-change', text: 'Image {image} was refused: {reason}.' },
  'host-locked': {
    status: 409,
    retry: 'after-change',
    text: '{doing} was not begun: host {host} is being locked, guests and disks. Try again when that has ended.',
  },
  'host-not-locked': {
    status: 500,
    retry: 'later',
    text: 'Locking host {host} is not complete: {reason}. Nothing new is unlocked there. Lock it again, or switch it off.',
  },
  'program-missing': {
    status: 500,
    retry: 'after-change',
    text: '{doing} needs the program {program}, which is not installed. Install the Debian package {package}.',
  },
  'program-late': {
    status: 500,
    retry: 'later',
    text: '{doing} failed: {program} did not end within {seconds} s, and was ended.',
  },
  'cluster-silent': {
    status: 503,
    retry: 'later',
    text: '{doing} failed: the cluster of {conf} did not answer within {seconds} s. Look at "ceph --conf {conf} status", then try again.',
  },
  'program-failed': { status: 500, retry: 'later', text: '{doing} failed: {program} ended with {outcome}: {stderr}' },
  'package-unknown': {
    status: 500,
    retry: 'after-change',
    text: '{doing} needs the Debian package {package}, which apt does not know. Run "apt-get update", then try again.',
  },
  'root-required': {
    status: 500,
    retry: 'after-change',
    text: '{doing} needs root, to mount file systems and to start guests. Run the service as root, or set [libvirt] connection_uri to the libvirt of the machine.',
  },
  'privilege-refused': {
    status: 500,
    retry: 'never',
    text: '{doing} was not begun: "{command}" is none of the commands that may run with privilege within the directories ({directories}) and volume groups ({groups}) of this host. Nothing was changed. Please report it.',
  },
  'root-helper-required': {
    status: 500,
    retry: 'after-change',
    text: '{doing} needs root, and the service is not root. Start nightlatch-helper.socket and set [privilege] helper to its path, or run the service as root.',
  },
  'root-helper-unavailable': {
    status: 500,
    retry: 'later',
    text: '{doing} failed: the root helper at {path} does not answer ({reason}). Check that nightlatch-helper.socket is started and that the service is in its group, then try again.',
  },
  'root-helper-refused': {
    status: 500,
    retry: 'after-change',
    text: '{doing} was refused by the root helper: {reason}',
  },
  'run-directory-unfit': {
    status: 500,
    retry: 'after-change',
    text: 'The run directory {path} cannot be used: {reason}. Mend that, or choose another data directory.',
  },
  'memory-unprotected': {
    status: 500,
    retry: 'later',
    text: 'Suspending server {server} was not begun: libvirt does not see the encrypted file {path} ({reason}), so its memory would have been written in clear. The server runs on. Restart the service, then try again.',
  },
  'hypervisor-unavailable': {
    status: 500,
    retry: 'later',
    text: '{doing} failed: libvirt does not answer ({reason}). Check that libvirtd runs, then try again.',
  },
  'hypervisor-failed': { status: 500, retry: 'later', text: '{doing} failed: libvirt says: {reason}' },
  'saved-memory-unreadable': {
    status: 500,
    retry: 'after-change',
    text: 'Resuming server {server} failed: {reason}. Its saved memory was kept. Try again, or delete the server.',
  },
} as const satisfies Record<string, { status: number; retry: RetryClass; text: string }>;

/** Whether doing the same again can help: never, after waiting, or after something was changed. */
export type RetryClass = 'never' | 'later' | 'after-change';
export type ErrorCode = keyof typeof catalogue;
export type ErrorDetails = Readonly<Record<string, string | number>>;

export const errorCodes = Object.keys(catalogue) as ErrorCode[];

/** A failure from the catalogue: something applied and failed. Anything else thrown is a bug. */
export class NightlatchError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(render(catalogue[code].text, details), options);
    this.name = 'NightlatchError';
    this.code = code;
    this.details = details;
  }

  /** HTTP status, where the failure answers a request. */
  get status(): number {
    return catalogue[this.code].status;
  }

  get retry(): RetryClass {
    return catalogue[this.code].retry;
  }
}

export function catalogueEntry(code: ErrorCode): { status: number; retry: RetryClass; text: string } {
  return catalogue[code];
}

export function badRequest(reason: string): NightlatchError {
  return new NightlatchError('bad-request', { reason });
}

export function notFound(kind: string, id: string): NightlatchError {
  return new NightlatchError('not-found', { kind, id: shorten(id) });
}

/** The sentence to show for anything thrown; a bug shows its class and message. */
export function describeError(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** At most `limit` characters of text that came from outside, so that an error message never carries a megabyte. */
export function shorten(text: string, limit = 255): string {
  return text.length <= limit ? text : `${text.slice(0, limit)}…`;
}

function render(template: string, details: ErrorDetails): string {
  return template.replace(/\{(\w+)\}/g, (_, name: string) => shorten(String(details[name] ?? ''), 2000));
}
