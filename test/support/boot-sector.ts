import { once } from 'node:events';
import { stat, truncate, writeFile } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { run, start } from '#host/exec.ts';
import { command } from '#test/support/command.ts';

/**
 * A guest of 512 bytes, up in a fraction of a second. On the first serial port it prints `READY` and a line feed, and
 * then obeys one letter at a time: `n` prints the next letter of the alphabet, counted in its memory; `w` writes that
 * memory to the second sector of its first disk, `l` loads it from there, and both print `k` when that went well; `e`
 * lets go of every device that the host wants back, and prints `k`; `p` powers off; `r` resets; `f` prints `f` for ever. It
 * powers off when the power button is pressed (ACPI).
 *
 * x86 real mode; ports 600h, 602h, 604h are the q35's ACPI power management registers as SeaBIOS sets them up, 0cc4h to
 * 0cd0h those for taking devices out (QEMU's docs/specs/acpi_pci_hotplug).
 */
const code = `
  fa 31c0 8ed8 8ed0 bc007c      cli; ds = ss = 0; sp = 7c00h
  ba0206 b80001 ef              out 602h, 100h: let the power button be seen
  becd7c                        si = message
  ac 84c0 7405 e84e00 ebf6      say: put every letter until zero
  c606007e61 fb                 [7e00h] = 'a'; interrupts on
  f4                            wait: sleep until the timer's next tick
  ba0006 ed f6c401 752e         power button pressed: go to off
  bafd03 ec a801 74ee           nothing received: go to wait
  baf803 ec                     the letter received
  3c70 741e 3c72 7414 3c66 741f  p: off; r: reset; f: flood
  3c6e 7531                     not n: go to disk
  a0007e fe06007e e81600 ebce   put [7e00h], add one, wait
  b0fe e664 ebc8                reset: by the keyboard controller
  ba0406 b80020 ef ebbf         off: out 604h, 2000h
  e80200 ebfb                   flood: put for ever
  88c4 bafd03 ec a820 74fb      put: until the transmitter is ready
  88e0 baf803 ee c3             send, return
  b403 3c77 7406                disk: w: write
  b402 3c6c 751a                l: read; not l: go to eject
  b001 1e07 bb007e              one sector, at 7e00h
  b90200 ba8000 cd13            of the first disk, the second sector
  b06b 7302 b021 e8cbff eb83    put k, or ! when it failed; wait
  3c65 0f857dff                 eject: e; not e: wait
  31c9                          bus 0
  bad00c 660fb7c1 66ef          which bus: out 0cd0h
  b2c4 66ed                     what it is asked to let go of: in 0cc4h
  6685c0 7404 b2c8 66ef         something: it has let go, out 0cc8h
  41 80f940 72e4               64 buses
  b06b e8a0ff e957ff            put k, wait
`;

/** The boot sector, 512 bytes. */
export function bootSector(): Buffer {
  const hex = code.replace(/^ *((?:[0-9a-f]+ )*[0-9a-f]+)(?: {2,}.*)?$/gm, '$1').replace(/\s/g, '');
  if (!/^[0-9a-f]+$/.test(hex)) throw new Error(`a line of the boot sector is not in order: ${hex}`);
  const sector = Buffer.alloc(512);
  Buffer.concat([Buffer.from(hex, 'hex'), Buffer.from('READY\n\0', 'latin1')]).copy(sector);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

/** LUKS1 payload offset of QEMU's own layout, in 512-byte sectors. */
const PAYLOAD_SECTORS = 4040;
const SIZE_BYTES = 1024 * 1024;

/** Makes a raw disk of 1 MiB that boots into `bootSector`, encrypted with `key` (LUKS1) or in clear. */
export async function makeBootDisk(path: HostPath, key: Secret | null): Promise<void> {
  const plain = Buffer.alloc(SIZE_BYTES);
  bootSector().copy(plain);
  if (key === null) return writeFile(path, plain);
  await formatLuks(path, key, SIZE_BYTES);
  await writeFile(`${path}.plain`, plain);
  const image = `driver=luks,key-secret=s0,file.filename=${path}`;
  const write = ['-c', `write -s ${path}.plain 0 ${SIZE_BYTES}`];
  const doing = `Filling the boot disk ${path}`;
  await run('qemu-io', ['--object', KEY_OBJECT, '--image-opts', image, ...write], { doing, fd3: key });
}

const KEY_OBJECT = 'secret,id=s0,file=/dev/fd/3';

/** Makes a LUKS1 container for `sizeBytes` of data. */
export async function formatLuks(path: HostPath, key: Secret, sizeBytes: number): Promise<void> {
  await writeFile(path, '');
  await truncate(path, PAYLOAD_SECTORS * 512 + sizeBytes);
  const format = ['luksFormat', '-q', '--type', 'luks1', '--offset', String(PAYLOAD_SECTORS)];
  const cheap = ['--pbkdf-force-iterations', '1000', '--key-file', '-', path];
  command('cryptsetup', [...format, ...cheap], { stdin: key });
}

/** Shows the data of a LUKS1 container as the file `path`, until disposed. */
export async function exportLuks(
  container: HostPath,
  key: Secret,
  path: HostPath,
): Promise<AsyncDisposable & { path: HostPath }> {
  await writeFile(path, '');
  const nodes = [`driver=file,filename=${container},node-name=f0`, 'driver=luks,file=f0,key-secret=s0,node-name=l0'];
  const fuse = `type=fuse,id=e0,node-name=l0,mountpoint=${path},writable=on,allow-other=off`;
  const args = ['--object', KEY_OBJECT, ...nodes.flatMap((node) => ['--blockdev', node]), '--export', fuse];
  const daemon = start('qemu-storage-daemon', args, { fd3: key });
  while ((await stat(path)).size === 0) {
    if (daemon.exitCode !== null) throw new Error('qemu-storage-daemon has ended');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return {
    path,
    async [Symbol.asyncDispose]() {
      const ended = once(daemon, 'exit');
      daemon.kill('SIGTERM');
      await ended;
    },
  };
}
