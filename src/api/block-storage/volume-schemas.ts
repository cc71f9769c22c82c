import type { FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import { BooleanWord, Description, Metadata, NullableName, NullableText } from '#api/block-storage/fields.ts';
import { has } from '#api/block-storage/microversions.ts';
import { exactly } from '#api/fields.ts';
import { badRequest, shorten } from '#core/errors.ts';
import { imageVisibilities } from '#core/image.ts';

/** Checked further where it is read: Cinder has its own words for what is no size. */
const Size = Type.Union([Type.Integer(), Type.String({ maxLength: 32 }), Type.Null()]);
const Id = Type.Union([Type.String({ maxLength: 255 }), Type.Null()]);

/** Older clients say display_name and display_description. */
const Names = {
  name: Type.Optional(NullableName),
  display_name: Type.Optional(NullableName),
  description: Type.Optional(Description),
  display_description: Type.Optional(Description),
};

/** See Block Storage API v3 "Create a volume". */
export const CreateVolume = Type.Object(
  {
    // What else is in it is refused from 3.53 on, see `refuseUnknownFields`.
    volume: Type.Object({
      ...Names,
      size: Type.Optional(Size),
      volume_type: Type.Optional(NullableText),
      availability_zone: Type.Optional(NullableText),
      metadata: Type.Optional(Type.Union([Metadata, Type.Null()])),
      imageRef: Type.Optional(Id),
      image_id: Type.Optional(Id),
      snapshot_id: Type.Optional(Id),
      source_volid: Type.Optional(Id),
      backup_id: Type.Optional(Id),
      consistencygroup_id: Type.Optional(Type.Null()),
      group_id: Type.Optional(Type.Null()),
      source_replica: Type.Optional(Type.Null()),
      multiattach: Type.Optional(Type.Union([BooleanWord, Type.Null()])),
      user_id: Type.Optional(Type.Unknown()),
      project_id: Type.Optional(Type.Unknown()),
      status: Type.Optional(Type.Unknown()),
      attach_status: Type.Optional(Type.Unknown()),
    }),
    'OS-SCH-HNT:scheduler_hints': Type.Optional(Type.Union([Type.Object({}), Type.Null()])),
  },
  { additionalProperties: false },
);
export type CreateVolume = Static<typeof CreateVolume>['volume'];

/** Refuses fields that a volume does not have, from the microversion that does so on; before, they are ignored. */
export function refuseUnknownFields(request: FastifyRequest, asked: CreateVolume): void {
  if (!has(request, 'strict-volumes')) return;
  const known = CreateVolume.properties.volume.properties;
  const unknown = Object.keys(asked).find((name) => !Object.hasOwn(known, name));
  if (unknown === undefined) return;
  throw badRequest(`Additional properties are not allowed ('${shorten(unknown, 64)}' was unexpected)`);
}

export const UpdateVolume = exactly({
  volume: Type.Object(
    { ...Names, metadata: Type.Optional(Type.Union([Metadata, Type.Null()])) },
    { additionalProperties: false, minProperties: 1 },
  ),
});
export type UpdateVolume = Static<typeof UpdateVolume>['volume'];

/** See "Create a snapshot". */
export const CreateSnapshot = exactly({
  snapshot: exactly({
    ...Names,
    volume_id: Type.Union([Type.String({ maxLength: 255 }), Type.Null()]),
    force: Type.Optional(Type.Union([BooleanWord, Type.Null()])),
    metadata: Type.Optional(Type.Union([Metadata, Type.Null()])),
  }),
});
export type CreateSnapshot = Static<typeof CreateSnapshot>['snapshot'];

export const UpdateSnapshot = exactly({
  snapshot: Type.Object({ ...Names }, { additionalProperties: false, minProperties: 1 }),
});

/** MiB per second; 0: as fast as it goes. */
const Bandwidth = Type.Integer({ minimum: 0, maximum: 1024 ** 2 });
const anything = Type.Optional(Type.Unknown());

/** One action on a volume, as the one key of the body. See "Volume actions". */
export const VolumeActionBody = Type.Object(
  {
    'os-extend': Type.Optional(
      exactly({ new_size: Type.Union([Type.Integer({ minimum: 1 }), Type.String({ pattern: '^[0-9]{1,10}$' })]) }),
    ),
    'os-set_bootable': Type.Optional(exactly({ bootable: BooleanWord })),
    'os-update_readonly_flag': Type.Optional(exactly({ readonly: BooleanWord })),
    'os-reset_status': Type.Optional(
      exactly({
        status: Type.Optional(Type.Union([Type.String({ maxLength: 64 }), Type.Null()])),
        attach_status: Type.Optional(Type.Union([Type.Enum(['attached', 'detached']), Type.Null()])),
        migration_status: Type.Optional(Type.Union([Type.String({ maxLength: 64 }), Type.Null()])),
      }),
    ),
    'os-retype': Type.Optional(
      exactly({
        new_type: Type.String({ minLength: 1, maxLength: 255 }),
        migration_policy: Type.Optional(Type.Union([Type.Enum(['never', 'on-demand']), Type.Null()])),
      }),
    ),
    'os-volume_upload_image': Type.Optional(
      // What came later is refused before, see `uploadImage`.
      exactly({
        image_name: Type.String({ minLength: 1, maxLength: 255, pattern: '\\S' }),
        force: Type.Optional(BooleanWord),
        disk_format: Type.Optional(Type.Enum(['raw', 'qcow2', 'vmdk', 'vdi', 'vhd', 'vhdx', 'ploop'])),
        container_format: Type.Optional(Type.String({ maxLength: 255 })),
        visibility: Type.Optional(Type.Enum([...imageVisibilities])),
        protected: Type.Optional(BooleanWord),
        encryption: Type.Optional(exactly({ key: Type.Enum(['new', 'none']) })),
      }),
    ),
    revert: Type.Optional(exactly({ snapshot_id: Type.String({ maxLength: 64 }) })),
    'os-reimage': Type.Optional(
      exactly({ image_id: Type.String({ maxLength: 64 }), reimage_reserved: Type.Optional(BooleanWord) }),
    ),
    'nightlatch:header_backups': anything,
    'nightlatch:restore_header': Type.Optional(
      exactly({
        version: Type.Optional(Type.Union([Type.Integer({ minimum: 1, maximum: 999_999_999 }), Type.Null()])),
      }),
    ),
    'os-migrate_volume': Type.Optional(
      exactly({
        host: Type.String({ minLength: 1, maxLength: 255 }),
        force_host_copy: Type.Optional(BooleanWord),
        lock_volume: Type.Optional(BooleanWord),
      }),
    ),
    'nightlatch:rekey': Type.Optional(
      Type.Union([
        Type.Null(),
        exactly({ volume_key: Type.Optional(Type.Boolean()), bandwidth: Type.Optional(Bandwidth) }),
      ]),
    ),
    'nightlatch:set_migration_bandwidth': Type.Optional(exactly({ bandwidth: Bandwidth })),
    'nightlatch:cancel_migration': anything,
    'os-force_delete': anything,
    'os-reserve': anything,
    'os-unreserve': anything,
    'os-begin_detaching': anything,
    'os-roll_detaching': anything,
    'os-attach': Type.Optional(
      exactly({
        instance_uuid: Type.Optional(Type.String({ maxLength: 36 })),
        mountpoint: Type.String({ minLength: 1, maxLength: 255 }),
        host_name: Type.Optional(Type.String({ maxLength: 255 })),
        mode: Type.Optional(Type.Enum(['rw', 'ro'])),
      }),
    ),
    'os-detach': Type.Optional(
      Type.Union([
        Type.Null(),
        exactly({ attachment_id: Type.Optional(Type.Union([Type.String({ maxLength: 36 }), Type.Null()])) }),
      ]),
    ),
    'os-force_detach': Type.Optional(
      exactly({
        attachment_id: Type.Optional(Type.Union([Type.String({ maxLength: 36 }), Type.Null()])),
        connector: anything,
      }),
    ),
    'os-set_image_metadata': Type.Optional(
      exactly({ metadata: Type.Record(Type.String({ maxLength: 255 }), Type.String({ maxLength: 65_535 })) }),
    ),
    'os-unset_image_metadata': Type.Optional(exactly({ key: Type.String({ minLength: 1, maxLength: 255 }) })),
    'os-show_image_metadata': anything,
  },
  { minProperties: 1, maxProperties: 1 },
);
export type VolumeActionBody = Static<typeof VolumeActionBody>;

/** One action on a snapshot. See "Snapshot actions". */
export const SnapshotActionBody = Type.Object(
  {
    'os-reset_status': Type.Optional(exactly({ status: Type.String({ maxLength: 64 }) })),
    'os-update_snapshot_status': Type.Optional(
      exactly({
        status: Type.String({ maxLength: 64 }),
        progress: Type.Optional(Type.Union([Type.String({ pattern: '^[0-9]{1,3}%$' }), Type.Null()])),
      }),
    ),
    'os-force_delete': anything,
  },
  { minProperties: 1, maxProperties: 1 },
);
export type SnapshotActionBody = Static<typeof SnapshotActionBody>;
