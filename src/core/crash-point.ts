import { readFileSync } from 'node:fs';

/**
 * Crash points inside steps, each with what has just happened. The engine has two more for every step: before it, and
 * after it but before that is recorded.
 */
export const innerCrashPoints = {
  'operations.recorded': 'the row names the operation, the engine does not know it yet',
  'keys.create-key.stored': 'the secret is stored, the disk’s row does not name it yet',
  'keys.lend.leased': 'lease and audit record are durable, the key is not read yet',
  'images.upload.saved': 'the bytes of an image are durable, it is not active yet',
  'images.delete.marked': 'the image is gone for its users; its bytes and its secret are not',
  'keys.destroy-key.destroyed': 'the secret is gone, the disk’s row still names it',
  'agent.create-disk.allocated': 'the medium is there, without a header',
  'agent.create-disk.formatted': 'the header is there, the content is not',
  'steps.create-disks.made': 'the disk is ready, its row does not say so yet',
  'steps.create-volume-disk.made': 'the disk of a volume is ready, its row does not say so yet',
  'steps.create-snapshot.copied': 'the disk of a snapshot is ready, its row does not say so yet',
  'steps.destroy-volume-disk.removed': 'the medium of a volume is gone, its lease and secret are not',
  'steps.extend-volume.grown': 'the disk of a volume is larger, its row does not say so yet',
  'steps.attach-volume.plugged': 'the guest has the volume, it is not in-use yet',
  'steps.detach-volume.unplugged': 'the guest has let the volume go, its lease is still open',
  'keys.create-next-key.stored': 'the next secret of a disk is stored, its row does not name it yet',
  'steps.create-backup.stored': 'the bytes of a backup are stored, its row does not say so yet',
  'steps.upload-volume.copied': 'the disk of an image is ready, its row does not say so yet',
  'steps.upload-volume.handed-over': 'the image of a volume names its secret, it has no data yet',
  'steps.replace-content.filled': 'the disk of a volume that gets other content is ready, its row does not say so yet',
  'steps.replace-content.exchanged': 'the volume has its new disk, the one before is still there',
  'steps.delete-backup.removed': 'the bytes of a backup are gone, its secret is not',
  'steps.move-volume.copied': 'the data of a volume is copied to another disk, its row does not say so yet',
  'steps.move-volume.switched': 'the guest is paused and has another disk of its volume, no row says so yet',
  'steps.move-volume.exchanged': 'a volume has its other disk, the server that has it is still held',
  'steps.rekey.changed': 'the header of a disk has its next key, the row names both',
  'steps.rekey.named': 'the row of a disk names its new secret, the old one is still stored',
  'steps.rekey.headers-forgotten': 'the header backups of the old secret are gone, it is still stored',
  'host.header-backups.kept': 'a header is kept, the medium does not have it yet or nothing says so',
  'encryptor.restore-header.part-written': 'a part of a header is back on its medium',
  'steps.restore-header.restored': 'the header of a volume is back, its lease is still open',
  'agent.destroy-disk.backups-destroyed': 'the header backups of a disk are overwritten, its header is not',
  'steps.let-volumes-go.recorded': 'a volume names its deletion and no server, the engine does not know it yet',
  'steps.copy.made': 'the snapshot of a disk is ready, its row does not say so yet',
  'agent.grow-disk.grown': 'the room is there, the guest does not see it yet',
  'agent.attach-volume.unlocked': 'the volume is unlocked, its guest does not have it yet',
  'agent.attach-volume.attached': 'the guest has the volume, nothing says so yet',
  'agent.mirror-disk.begun': 'a disk is being mirrored, nothing says so yet',
  'agent.switch-to-mirror.paused': 'the guest is paused and has the disk that is mirrored',
  'agent.switch-to-mirror.pivoted': 'the guest is paused and has the mirror, no row says so',
  'agent.detach-volume.released': 'the guest has let go of the volume, which is still unlocked',
  'encryptor.rekey.new-written': 'the key material of the new key is written, the header does not speak of it yet',
  'encryptor.rekey.added': 'both keys open the disk',
  'encryptor.rekey.old-overwritten': 'the key material of the old key is overwritten, the header still speaks of it',
  'encryptor.rekey.removed': 'only the new key opens the disk, its row does not say so yet',
  'agent.destroy-disk.header-destroyed': 'the header is overwritten, the medium still there',
  'steps.destroy-disks.removed': 'the medium is gone, the lease and the secret are not',
  'agent.start-server.started': 'the guest runs, nothing says so yet',
  'agent.stop-server.ended': 'the guest is gone, its disks are not locked yet',
  'agent.lock-paused.wiped': 'the keys of a paused guest are gone, their leases are not closed yet',
  'agent.unlock-paused.put-back': 'the keys of a paused guest are back, it is still paused',
  'agent.suspend-server.saved': 'the memory is saved and the guest gone, its disk is still unlocked',
  'agent.restore-server.restored': 'the guest is back, paused; its saved memory is still unlocked',
} as const;

export type InnerCrashPoint = keyof typeof innerCrashPoints;

/**
 * Named places where the guarantee suite kills the process, to prove that a restart finds nothing lost and nothing
 * left behind. In production a crash point is a comparison with `null`. `@FILE`: the name stands in that file, once there
 * is one, so that a process can be told while it runs.
 */
const armed: string | null = process.env.NIGHTLATCH_CRASH_AT ?? null;

/** Ends the process by SIGKILL, as a power cut would, when the crash point of this name is armed. */
export function crashPoint(name: InnerCrashPoint | `${string}.before` | `${string}.after`): void {
  if (armed !== null && armedName(armed) === name) process.kill(process.pid, 'SIGKILL');
}

function armedName(told: string): string | null {
  if (!told.startsWith('@')) return told;
  try {
    return readFileSync(told.slice(1), 'utf8');
  } catch {
    return null;
  }
}
