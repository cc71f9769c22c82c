import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { serverOfDisk } from '#core/disk.ts';
import type { ServerId, VolumeId } from '#core/ids.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import { shouldRun } from '#core/server.ts';
import { connectPool, type Database, openDatabase } from '#db/database.ts';
import { asDisk, type DiskRow } from '#db/disks.ts';
import { stateOf } from '#db/servers.ts';
import { guestDisks, rescueDisk } from '#operations/context.ts';
import { command } from '#test/support/command.ts';
import { guestsOf, processesOf } from '#test/support/destroy-state.ts';
import { findPoolStrays } from '#test/support/pool.ts';
import type { TestService } from '#test/support/service.ts';
import { findVolumeStrays } from '#test/support/volume-strays.ts';

/**
 * Everything that does not belong: secrets without a disk or an image and either without its secret, files without a row
 * and rows without a file (see `findVolumeStrays` for logical volumes, `findPoolStrays` for images in a pool), guests without an active server, leases of servers
 * that do not run, disks left unlocked, libvirt secrets, kept headers that open nothing or are missing. Empty when all is as it should be. The one
 * host has its data directory at `hostDirectory`. `backupsKept`: the backups that have objects; null: those in the directory.
 */
export async function findStrays(
  service: TestService,
  hostDirectory = service.stateDirectory,
  backupsKept: readonly string[] | null = null,
): Promise<string[]> {
  await using db = openDatabase(
    connectPool({ host: join(service.stateDirectory, 'postgresql'), user: 'nightlatch', database: 'nightlatch' }),
  );
  const strays: string[] = [];
  const servers = new Map((await db.selectFrom('servers').selectAll().execute()).map((row) => [row.id, row]));
  const disks = (await db.selectFrom('disks').selectAll().execute()).filter((row) => row.state !== 'destroyed');
  const secrets = await db.selectFrom('secrets').selectAll().execute();
  const leases = await db.selectFrom('leases').selectAll().where('closed_at', 'is', null).execute();
  const attachments = await db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null).execute();
  const files = [...(await filesIn(hostDirectory, 'disks')), ...(await filesIn(hostDirectory, 'volumes'))];

  const backupFolders = backupsKept ?? (await readdir(join(service.stateDirectory, 'backups')).catch(() => []));

  for (const server of servers.values()) {
    if (server.operation !== null) strays.push(`server ${server.name} is still in ${server.task_state}`);
  }
  strays.push(...(await volumeStrays(db, disks)));
  for (const disk of disks) {
    if (disk.encrypted && disk.state !== 'absent' && !secrets.some(({ id }) => id === disk.secret_id))
      strays.push(`${disk.role} disk of ${disk.owner_id} has no secret`);
    if (serverOfDisk({ role: disk.role, ownerId: disk.owner_id }) === null) continue;
    const server = servers.get(disk.owner_id as ServerId);
    const where = `${disk.role} disk of server ${server?.name} (${server?.vm_state})`;
    if (server?.vm_state === 'deleted' || server?.vm_state === 'error') strays.push(`${where} is ${disk.state}`);
    const expected = server?.vm_state === 'shelved_offloaded' ? 'absent' : 'formatted';
    if (disk.state !== expected) strays.push(`${where} is ${disk.state}`);
    if (disk.role === 'snapshot') strays.push(`${where} was kept`);
    if (disk.role === 'memory' && server?.vm_state !== 'suspended') strays.push(`${where} was kept`);
    if (disk.role === 'rescue' && server?.vm_state !== 'rescued') strays.push(`${where} was kept`);
    if (disk.standing === 'coming' || (disk.standing === 'kept' && server?.vm_state !== 'resized')) {
      strays.push(`${where} is ${disk.standing}`);
    }
  }
  const images = await db.selectFrom('images').selectAll().execute();
  const imageKeys = images.map(({ properties }) => imageEncryption(properties)?.secretId ?? null);
  const backups = await db.selectFrom('backups').selectAll().where('deleted_at', 'is', null).execute();
  const backupKeys = backups.map(({ secret_id }) => secret_id);
  for (const { id, name, operation, status } of backups) {
    if (operation !== null) strays.push(`backup ${name} is still in ${operation.name}`);
    const isKept = backupFolders.includes(id);
    if (isKept !== (status === 'available'))
      strays.push(`backup ${name} is ${status} and ${isKept ? 'has' : 'lacks'} objects`);
  }
  for (const folder of backupFolders) {
    if (!backups.some(({ id }) => id === folder)) strays.push(`backup objects of ${folder}, which is not known`);
  }
  for (const secret of secrets) {
    const opens =
      disks.filter((disk) => disk.secret_id === secret.id).length +
      count(imageKeys, secret.id) +
      count(backupKeys, secret.id);
    if (opens !== 1) strays.push(`secret ${secret.name} opens ${opens} things`);
  }
  for (const image of images) {
    const secretId = imageEncryption(image.properties)?.secretId;
    if (image.status === 'deleted') strays.push(`image ${image.name} is half deleted`);
    if (secretId === null) strays.push(`image ${image.name} is encrypted and names no key`);
    if (secretId && !secrets.some(({ id }) => id === secretId)) strays.push(`image ${image.name} has no secret`);
  }
  for (const lease of leases) {
    const disk = disks.find(({ id }) => id === lease.disk_id);
    const attachment = attachments.find(({ volume_id }) => volume_id === disk?.owner_id);
    const server = disk ? servers.get((attachment?.server_id ?? disk.owner_id) as ServerId) : undefined;
    if (!server || !shouldRun(stateOf(server)) || disk?.standing !== 'live')
      strays.push(`lease of disk ${disk?.role} (${disk?.standing}) of a server that is ${server?.vm_state}`);
  }
  const running = [...servers.values()].filter((server) => shouldRun(stateOf(server)));
  const attached = running.flatMap(({ id }) => {
    const own = disks.filter((disk) => disk.owner_id === id).map(asDisk);
    const theirs = attachments.filter(({ server_id }) => server_id === id).map(({ volume_id }) => volume_id);
    const volumes = disks.filter((disk) => theirs.includes(disk.owner_id as VolumeId)).map(asDisk);
    return [...guestDisks(own), ...(rescueDisk(own) ? [] : volumes)];
  });
  const encrypted = attached.filter((disk) => disk.encryption !== null);
  if (leases.length !== encrypted.length) strays.push(`${leases.length} leases for ${encrypted.length} disks in use`);
  const guests = (await guestsOf(hostDirectory)).length;
  if (guests !== running.length) strays.push(`${guests} guests run for ${running.length} active servers`);
  const onHost = disks.filter(({ state }) => state !== 'absent');
  const inFiles = onHost.filter(({ storage }) => storage !== 'lvm' && storage !== 'rbd');
  if (files.length !== inFiles.length)
    strays.push(`${files.length} files for ${inFiles.length} disks: ${files.join(', ')}`);
  if (service.hasLogicalVolumes) {
    const onVolumes = onHost.filter(({ storage }) => storage === 'lvm');
    strays.push(...(await findVolumeStrays(onVolumes, leases)));
  }
  strays.push(...findPoolStrays(onHost.filter(({ storage }) => storage === 'rbd').map(asDisk)));
  strays.push(...(await headerStrays(hostDirectory, disks)));
  strays.push(...(await unlockedDisks(hostDirectory)).map((id) => `disk ${id} is unlocked`));
  strays.push(...(await libvirtSecrets(hostDirectory)).map((usage) => `libvirt keeps the secret ${usage}`));
  return strays;
}

function count<T>(all: readonly T[], one: T): number {
  return all.filter((each) => each === one).length;
}

/** Volumes and snapshots without a disk, disks without either, and what is under way on them. */
async function volumeStrays(db: Database, disks: readonly DiskRow[]): Promise<string[]> {
  const volumes = await db.selectFrom('volumes').selectAll().where('deleted_at', 'is', null).execute();
  const snapshots = await db.selectFrom('snapshots').selectAll().where('deleted_at', 'is', null).execute();
  const attachments = await db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null).execute();
  const strays: string[] = [];
  for (const each of [...volumes, ...snapshots]) {
    const where = `${each.name} (${each.status})`;
    if (each.operation !== null) strays.push(`${where} is still in ${each.operation.name}`);
    const own = disks.filter((disk) => disk.owner_id === each.id);
    const expected = each.status === 'error' ? 0 : 1;
    if (own.length !== expected) strays.push(`${where} has ${own.length} disks`);
    for (const { state, other_secret_id } of own) {
      if (state !== 'formatted' || other_secret_id !== null) strays.push(`${where} has a disk that is ${state}`);
    }
  }
  for (const { id, role, owner_id } of disks) {
    const isVolumes = serverOfDisk({ role, ownerId: owner_id }) === null;
    if (isVolumes && ![...volumes, ...snapshots].some((each) => each.id === owner_id)) {
      strays.push(`${role} disk ${id} belongs to nothing`);
    }
  }
  for (const { status, volume_id } of attachments) {
    const volume = volumes.find(({ id }) => id === volume_id);
    if (status === 'attached' && volume?.status !== 'in-use')
      strays.push(`${volume?.name} is attached and ${volume?.status}`);
  }
  for (const { id, name, status } of volumes) {
    if (status === 'in-use' && !attachments.some(({ volume_id }) => volume_id === id))
      strays.push(`${name} is in-use by nothing`);
  }
  return strays;
}

/** Kept headers of no disk or of a secret that is not the disk's, disks whose header is not kept. */
async function headerStrays(hostDirectory: string, disks: readonly DiskRow[]): Promise<string[]> {
  const kept = (await filesIn(hostDirectory, 'headers')).map((path) => path.split('/').slice(-2));
  const strays: string[] = [];
  for (const [diskId, name = ''] of kept) {
    const disk = disks.find(({ id }) => id === diskId);
    if (!disk) strays.push(`header ${name} is kept of no disk`);
    else if (!name.endsWith(`-${disk.secret_id}`)) strays.push(`${disk.role} disk ${diskId} has the header ${name}`);
  }
  for (const { id, role, state, encryption } of disks) {
    const hasHeader = state === 'formatted' && (encryption === 'luks' || encryption === 'luksv2');
    if (hasHeader && !kept.some(([diskId]) => diskId === id))
      strays.push(`the header of ${role} disk ${id} is not kept`);
  }
  return strays;
}

/** None of a folder that is not there. */
async function filesIn(hostDirectory: string, folder: string): Promise<string[]> {
  const path = join(hostDirectory, folder);
  const found = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []);
  return found.filter((entry) => entry.isFile()).map((entry) => `${entry.parentPath}/${entry.name}`);
}

/** Folders, mounts and processes of unlocked disks. */
async function unlockedDisks(hostDirectory: string): Promise<string[]> {
  const folder = join(hostDirectory, 'run/unlocked');
  const processes = await processesOf(folder);
  return [...(await readdir(folder).catch(() => [])), ...processes.map((pid) => `process ${pid}`)];
}

/** What libvirt has of keys now, by a program of its own. */
export async function libvirtSecrets(hostDirectory: string): Promise<string[]> {
  const socket = encodeURIComponent(join(hostDirectory, 'run/lv/run/libvirt-sock'));
  const listed = command('virsh', ['--quiet', '--connect', `qemu+unix:///system?socket=${socket}`, 'secret-list']);
  return listed.split('\n').filter((line) => line.trim() !== '');
}
