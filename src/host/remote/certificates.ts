import { X509Certificate } from 'node:crypto';
import { access, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import { run } from '#host/exec.ts';
import { hasCode, syncFolder } from '#host/files.ts';
import { type Credentials, HOST_NAME, type Peer, peerUri } from '#host/remote/peer.ts';

/** Where the parts of credentials lie. */
export type CredentialFiles = Credentials;

/** Hosts are enrolled anew long before; the authority outlives the certificates it has signed. */
const VALID_DAYS = { authority: 7300, peer: 3650 } as const;

/**
 * The authority of this control plane: it signs the certificates of hosts and the control plane's own. Its key lies in
 * `folder`, readable by its owner alone, and never leaves this machine.
 */
export class Authority {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Makes the authority if there is none. *Crash*: leaves a folder `.new` that a repeat replaces. */
  static async open(folder: string): Promise<Authority> {
    const authority = new Authority(folder);
    if (await isThere(folder)) return authority;
    const unfinished = `${folder}.new`;
    await rm(unfinished, { recursive: true, force: true });
    await mkdir(unfinished, { mode: 0o700 });
    const made = new Authority(unfinished);
    await made.#issue(null, made.#files('ca'));
    await made.#issue({ role: 'control-plane' }, made.#files('control-plane'));
    await syncAll(unfinished);
    await rename(unfinished, folder);
    await syncFolder(dirname(folder));
    return authority;
  }

  /** What the control plane shows to hosts. */
  credentials(): Promise<Credentials> {
    return readCredentials({ ...this.#files('control-plane'), ca: this.#files('ca').certificate });
  }

  /**
   * Writes what a host needs into `folder`: `host.crt`, `host.key`, `ca.crt`. Returns the certificate's fingerprint.
   * *Repeat*: makes another certificate over the one there.
   */
  async enroll(name: string, folder: string): Promise<string> {
    if (!HOST_NAME.test(name)) {
      const reason = `Enrolling host '${name}' failed: a name has letters, digits, dots and hyphens, at most 64.`;
      throw new NightlatchError('bad-request', { reason });
    }
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const files = { certificate: join(folder, 'host.crt'), key: join(folder, 'host.key') };
    await this.#issue({ role: 'host', name }, files);
    await using ca = await open(join(folder, 'ca.crt'), 'w', 0o644);
    await ca.writeFile(await readFile(this.#files('ca').certificate));
    await ca.sync();
    await syncAll(folder);
    return fingerprintOf(await readFile(files.certificate, 'utf8'));
  }

  /** Makes a key pair and its certificate; of the authority itself when there is no peer. The key has mode 0600. */
  async #issue(peer: Peer | null, to: Pick<CredentialFiles, 'certificate' | 'key'>): Promise<void> {
    const ca = this.#files('ca');
    const name = peer === null ? 'authority' : peer.role === 'host' ? `host ${peer.name}` : peer.role;
    const isSigned = peer === null ? [] : ['-CA', ca.certificate, '-CAkey', ca.key];
    const days = peer === null ? VALID_DAYS.authority : VALID_DAYS.peer;
    const args = [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-config', '/dev/null'],
      ...['-subj', `/CN=Nightlatch ${name}`, '-days', String(days), ...isSigned],
      ...['-keyout', to.key, '-out', to.certificate],
      ...extensionsOf(peer).flatMap((extension) => ['-addext', extension]),
    ];
    await run('openssl', args, { doing: `Making the certificate of ${name}`, timeoutMs: 30_000 });
  }

  #files(name: string): Pick<CredentialFiles, 'certificate' | 'key'> {
    return { certificate: join(this.#folder, `${name}.crt`), key: join(this.#folder, `${name}.key`) };
  }
}

/** Reads the three files. @throws bad-request, naming the one that cannot be read. */
export async function readCredentials(files: CredentialFiles): Promise<Credentials> {
  const read = async (path: string) => {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      throw new NightlatchError('bad-request', { reason: `Reading the certificate file ${path} failed: ${code}.` });
    }
  };
  const [certificate, key, ca] = await Promise.all([read(files.certificate), read(files.key), read(files.ca)]);
  return { certificate, key, ca };
}

/** SHA-256 of a certificate, as TLS tells it of the other end. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256;
}

/** A host may only be a server, the control plane only a client (RFC 5280 section 4.2.1.12). */
function extensionsOf(peer: Peer | null): string[] {
  if (peer === null) return ['basicConstraints=critical,CA:TRUE,pathlen:0', 'keyUsage=critical,keyCertSign'];
  const usage = peer.role === 'host' ? 'serverAuth' : 'clientAuth';
  return [
    'basicConstraints=critical,CA:FALSE',
    'keyUsage=critical,digitalSignature',
    `extendedKeyUsage=critical,${usage}`,
    `subjectAltName=URI:${peerUri(peer)}`,
  ];
}

async function syncAll(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    await using file = await open(join(folder, name), 'r');
    await file.sync();
  }
  await syncFolder(folder);
}

async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}
