import { readFile, statfs } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { formatTrait } from '#core/encryption-intent.ts';
import { GIB, MIB } from '#core/sizes.ts';
import type { DiskAccess } from '#host/disk-access.ts';
import type { HostFacts } from '#host/host-agent.ts';
import type { HostParts } from '#host/host-parts.ts';
import { workingFormats } from '#host/probe-formats.ts';
import { TriedFormats } from '#host/tried-formats.ts';
import { describeBackends } from '#host/volume-backends.ts';

/** See random(4). */
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

/** What this machine has, and what it can do: every format is tried, unless it was under the same circumstances. */
export async function describeHost(parts: HostParts, disks: DiskAccess): Promise<HostFacts> {
  const { name, virtType, storage, disksDirectory, defaultEncryptionFormat, undecidedEncryptionFormat } = parts;
  const servers = disks.driver({ backend: null, storage });
  const encryptorFor: DiskAccess['encryptorFor'] = (driver, format) => disks.encryptorFor(driver, format);
  const tried = (place: string) => TriedFormats.in(parts.runDirectory, parts.storageSettings, place);
  const { able, problems } = await workingFormats(storage, servers, encryptorFor, await tried('servers'));
  const volumes = await describeBackends(parts.backends, encryptorFor, tried);
  const { blocks, bsize } = await statfs(disksDirectory);
  return {
    name,
    traits: able.length === 0 ? [] : ['COMPUTE_EPHEMERAL_ENCRYPTION', ...able.map(formatTrait)],
    problems: [...problems, ...volumes.problems],
    vcpus: cpus().length,
    memoryMib: Math.floor(totalmem() / MIB),
    diskGib: Math.floor(((await servers.capacityBytes?.()) ?? blocks * bsize) / GIB),
    virtType,
    storage,
    defaultEncryptionFormat,
    undecidedEncryptionFormat,
    volumeBackends: volumes.volumeBackends,
    bootId: (await readFile(BOOT_ID_FILE, 'utf8')).trim(),
  };
}
