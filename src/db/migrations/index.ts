import type { Migration } from 'kysely/migration';
import * as createEverything from './0001-create-everything.ts';
import * as serverAttributes from './0002-server-attributes.ts';
import * as replacedDisks from './0003-replaced-disks.ts';
import * as serverReplacement from './0004-server-replacement.ts';
import * as imageKeys from './0005-image-keys.ts';
import * as undecidedEncryption from './0006-undecided-encryption.ts';
import * as hostBoot from './0007-host-boot.ts';
import * as remoteHosts from './0008-remote-hosts.ts';
import * as diskOwners from './0009-disk-owners.ts';
import * as volumeBackends from './0010-volume-backends.ts';
import * as volumeTypes from './0011-volume-types.ts';
import * as volumes from './0012-volumes.ts';
import * as backups from './0013-backups.ts';
import * as whatClientsSaid from './0014-what-clients-said.ts';
import * as keypairs from './0015-keypairs.ts';
import * as instanceActions from './0016-instance-actions.ts';
import * as volumeMigrations from './0017-volume-migrations.ts';

/** Every migration, in order, as a literal list: no directory is scanned at run time. */
export const migrations: Record<string, Migration> = {
  '0001-create-everything': createEverything,
  '0002-server-attributes': serverAttributes,
  '0003-replaced-disks': replacedDisks,
  '0004-server-replacement': serverReplacement,
  '0005-image-keys': imageKeys,
  '0006-undecided-encryption': undecidedEncryption,
  '0007-host-boot': hostBoot,
  '0008-remote-hosts': remoteHosts,
  '0009-disk-owners': diskOwners,
  '0010-volume-backends': volumeBackends,
  '0011-volume-types': volumeTypes,
  '0012-volumes': volumes,
  '0013-backups': backups,
  '0014-what-clients-said': whatClientsSaid,
  '0015-keypairs': keypairs,
  '0016-instance-actions': instanceActions,
  '0017-volume-migrations': volumeMigrations,
};
