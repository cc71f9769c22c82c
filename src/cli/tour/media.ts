import { mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { must } from '#cli/tour/narrator.ts';
import { Secret } from '#core/secret.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { ignoring, readUpTo } from '#host/files.ts';
import { grantPrivilege } from '#host/grant.ts';
import { findEncryptionHeader, LONGEST_QCOW2_HEADER } from '#host/storage/qcow2/header.ts';

/** One disk of a server as it lies on the host: a file, and where its LUKS header is within. */
export type Medium = {
  /** What the server uses it for, by the file's name. */
  readonly role: string;
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
  readonly header: { readonly offset: number; readonly length: number };
};

/** What `cryptsetup luksDump` tells of a header. */
export type LuksDump = {
  readonly version: string;
  readonly cipher: string;
  readonly keyBits: string;
  readonly uuid: string;
  readonly digest: string;
  readonly slots: number;
};

const ROLES: Readonly<Record<string, string>> = {
  disk: 'root',
  'disk.eph0': 'ephemeral',
  'disk.swap': 'swap',
  'disk.config': 'config drive',
  memory: 'saved memory',
};
const QCOW2_MAGIC = Buffer.from('QFI\xfb', 'latin1');

/** The disks of a server, found by looking into its folder. @throws when one has no place for a LUKS header. */
export async function findMedia(folder: string): Promise<Medium[]> {
  const names = (await readdir(folder).catch(ignoring('ENOENT'))) ?? [];
  const order = Object.keys(ROLES);
  names.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  return await Promise.all(names.map((name) => readMedium(join(folder, name), ROLES[name] ?? name)));
}

async function readMedium(path: string, role: string): Promise<Medium> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const head = await readUpTo(file, Math.min(size, LONGEST_QCOW2_HEADER), 0);
  if (!head.subarray(0, QCOW2_MAGIC.length).equals(QCOW2_MAGIC))
    return { role, path, format: 'raw', header: { offset: 0, length: LUKS1_HEADER_BYTES } };
  const header = findEncryptionHeader(head, size);
  must(header !== null, `the ${role} disk ${path} is a qcow2 image without a LUKS header`);
  return { role, path, format: 'qcow2', header };
}

/** The bytes of a disk's LUKS header, key slots included. */
export async function readHeader({ path, header }: Medium): Promise<Buffer> {
  await using file = await open(path, 'r');
  return await readUpTo(file, header.length, header.offset);
}

/** What cryptsetup says of a header cut out of its medium; null: that it is no LUKS header. */
export async function dumpHeader(header: Buffer): Promise<LuksDump | null> {
  const folder = await mkdtemp(join(tmpdir(), 'nightlatch-tour-'));
  try {
    const path = join(folder, 'header');
    grantPrivilege({ directories: [folder] });
    await writeFile(path, header, { mode: 0o600 });
    // Exit code 1: "Device … is not a valid LUKS device."
    const { code, stdout } = await run('cryptsetup', ['luksDump', path], {
      doing: 'Reading a LUKS header',
      tolerate: [1],
    });
    return code === 0 ? parseDump(stdout) : null;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function parseDump(text: string): LuksDump {
  const field = (name: string) => new RegExp(`^${name}:\\s*(.*?)\\s*$`, 'm').exec(text)?.[1] ?? '';
  return {
    version: field('Version'),
    cipher: `${field('Cipher name')}-${field('Cipher mode')}`,
    keyBits: field('MK bits'),
    uuid: field('UUID'),
    digest: field('MK digest'),
    slots: text.match(/^Key Slot \d: ENABLED$/gm)?.length ?? 0,
  };
}

/** What `qemu-img info` calls the encryption of a disk, found by looking at the medium alone. */
export async function encryptionByQemu(medium: Medium): Promise<string> {
  // -U: a running guest holds the lock of its disks.
  const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', medium.path], {
    doing: `Looking at the ${medium.role} disk`,
  });
  const info = JSON.parse(stdout) as QemuInfo;
  const details = info['format-specific']?.data;
  const luks = info.format === 'luks' ? details : details?.encrypt;
  return luks?.['cipher-alg'] ? `${luks.format ?? info.format} ${luks['cipher-alg']}-${luks['cipher-mode']}` : 'none';
}

type Luks = { readonly format?: string; readonly 'cipher-alg'?: string; readonly 'cipher-mode'?: string };
type QemuInfo = { readonly format: string; readonly 'format-specific'?: { readonly data?: Luks & { encrypt?: Luks } } };

/** Tries to read a disk with a key that is not its own; returns how QEMU refused. @throws when it did not. */
export async function tryWrongKey({ role, path, format }: Medium): Promise<string> {
  using wrong = Secret.generate();
  const layer =
    format === 'qcow2'
      ? { driver: 'qcow2', 'encrypt.format': 'luks', 'encrypt.key-secret': 'key' }
      : { driver: 'luks', 'key-secret': 'key' };
  const image = { ...layer, 'file.driver': 'file', 'file.filename': path };
  const args = ['-U', '-r', '--object', 'secret,id=key,file=/dev/fd/3', `json:${JSON.stringify(image)}`];
  const { code, stdout, stderr } = await run('qemu-io', [...args, '-c', 'read 0 512'], {
    doing: `Trying a wrong key on the ${role} disk`,
    fd3: wrong,
    tolerate: [1],
  });
  must(code !== 0, `a wrong key opened the ${role} disk ${path}: ${stdout}`);
  const said = /Invalid password/.exec(stderr)?.[0];
  must(said !== undefined, `the ${role} disk ${path} could not be tried with a wrong key: ${stderr}`);
  return said;
}
