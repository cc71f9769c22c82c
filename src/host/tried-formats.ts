import { createHash } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostPath } from '#core/ids.ts';
import { buildOf, type Program } from '#host/exec.ts';
import { ignoring } from '#host/files.ts';

type Noted = { readonly circumstances: string; readonly formats: readonly EncryptionFormat[] };

/** What makes, opens and fills an encrypted disk. */
const PROGRAMS: readonly Program[] = ['cryptsetup', 'dmsetup', 'lvcreate', 'lvs', 'qemu-img', 'qemu-storage-daemon'];

/**
 * The encryption formats that were seen to work on this host since its kernel booted, with these settings and these builds
 * of the programs. It lies in the run directory, which is memory, so that it never outlives the kernel it speaks of. What
 * did not work is not kept: it is tried again whenever it is asked for.
 */
export class TriedFormats {
  readonly #file: string;
  readonly #circumstances: string;
  #formats: readonly EncryptionFormat[];

  private constructor(file: string, circumstances: string, formats: readonly EncryptionFormat[]) {
    this.#file = file;
    this.#circumstances = circumstances;
    this.#formats = formats;
  }

  /** `settings`: all that is configured about how disks are stored and encrypted, as text. `place`: where the disks lie. */
  static async in(runDirectory: HostPath, settings: string, place: string): Promise<TriedFormats> {
    const file = `${runDirectory}/tried-formats.${place}`;
    const builds = await Promise.all(PROGRAMS.map(buildOf));
    const circumstances = createHash('sha256')
      .update(JSON.stringify([settings, builds]))
      .digest('hex');
    const noted = parse(await readFile(file, 'utf8').catch((error: unknown) => ignoring('ENOENT')(error) ?? ''));
    return new TriedFormats(file, circumstances, noted?.circumstances === circumstances ? noted.formats : []);
  }

  has(format: EncryptionFormat): boolean {
    return this.#formats.includes(format);
  }

  /** *Crash*: it is noted or not. */
  async add(format: EncryptionFormat): Promise<void> {
    this.#formats = [...this.#formats, format];
    const noted: Noted = { circumstances: this.#circumstances, formats: this.#formats };
    await writeFile(`${this.#file}.new`, JSON.stringify(noted), { mode: 0o600 });
    await rename(`${this.#file}.new`, this.#file);
  }
}

function parse(text: string): Noted | null {
  return text === '' ? null : (JSON.parse(text) as Noted);
}
