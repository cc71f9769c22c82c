import { type Static, Type } from 'typebox';
import { Metadata } from '#api/compute/fields.ts';
import { BooleanWord, Description, exactly, integerField, Name, ShortText } from '#api/fields.ts';

/** A tag: 1 to 60 characters without comma and slash. */
export const Tag = Type.String({ minLength: 1, maxLength: 60, pattern: '^[^,/\\p{Cc}\\p{Cs}]+$' });
export const Tags = Type.Array(Tag, { maxItems: 50 });
/** Text of which only presence matters, because what it would choose is not served. */
export const Word = Type.String({ maxLength: 255 });
export const DiskConfig = Type.Enum(['AUTO', 'MANUAL']);
export const Address = Type.Union([Type.String({ maxLength: 64, pattern: '^[0-9a-fA-F.:]*$' }), Type.Null()]);
export const Hostname = Type.String({
  minLength: 1,
  maxLength: 63,
  pattern: '^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$',
});

export const UserData = Type.Union([Type.String({ maxLength: 65_535 }), Type.Null()]);

const Network = exactly({
  uuid: Type.Optional(Word),
  port: Type.Optional(Type.Union([Word, Type.Null()])),
  fixed_ip: Type.Optional(Word),
  tag: Type.Optional(Word),
});

const BlockDevice = exactly({
  source_type: Type.Optional(Type.Enum(['image', 'volume', 'snapshot', 'blank'])),
  destination_type: Type.Optional(Type.Enum(['local', 'volume'])),
  uuid: Type.Optional(Word),
  image_id: Type.Optional(Word),
  volume_id: Type.Optional(Word),
  snapshot_id: Type.Optional(Word),
  boot_index: Type.Optional(Type.Union([Type.Integer(), Type.String({ pattern: '^-?[0-9]{1,9}$' }), Type.Null()])),
  volume_size: Type.Optional(Type.Union([integerField(0), Type.Literal('')])),
  volume_type: Type.Optional(Type.Union([Word, Type.Null()])),
  guest_format: Type.Optional(Word),
  device_type: Type.Optional(Word),
  device_name: Type.Optional(Word),
  disk_bus: Type.Optional(Word),
  delete_on_termination: Type.Optional(BooleanWord),
  no_device: Type.Optional(Type.Unknown()),
  virtual_name: Type.Optional(Word),
  tag: Type.Optional(Tag),
});
export type BlockDevice = Static<typeof BlockDevice>;
export const BlockDevices = Type.Array(BlockDevice, { maxItems: 64 });

const Hints = Type.Record(Type.String({ maxLength: 255 }), Type.Unknown());

export const CreateServer = exactly({
  server: exactly({
    name: Name,
    imageRef: Type.Optional(Type.String({ maxLength: 255 })),
    flavorRef: Type.Union([Type.String({ minLength: 1, maxLength: 1024 }), Type.Integer()]),
    adminPass: Type.Optional(ShortText),
    metadata: Type.Optional(Metadata),
    networks: Type.Optional(
      Type.Union([Type.Array(Network, { maxItems: 64 }), Type.Literal('none'), Type.Literal('auto')]),
    ),
    'OS-DCF:diskConfig': Type.Optional(DiskConfig),
    accessIPv4: Type.Optional(Address),
    accessIPv6: Type.Optional(Address),
    personality: Type.Optional(Type.Array(Type.Object({}), { maxItems: 64 })),
    availability_zone: Type.Optional(Name),
    block_device_mapping: Type.Optional(BlockDevices),
    block_device_mapping_v2: Type.Optional(BlockDevices),
    config_drive: Type.Optional(BooleanWord),
    key_name: Type.Optional(Name),
    min_count: Type.Optional(integerField(1)),
    max_count: Type.Optional(integerField(1)),
    return_reservation_id: Type.Optional(BooleanWord),
    security_groups: Type.Optional(Type.Array(exactly({ name: Type.Optional(Name) }), { maxItems: 64 })),
    user_data: Type.Optional(UserData),
    description: Type.Optional(Description),
    tags: Type.Optional(Tags),
    trusted_image_certificates: Type.Optional(Type.Union([Type.Array(Word, { maxItems: 50 }), Type.Null()])),
    host: Type.Optional(Word),
    hypervisor_hostname: Type.Optional(Word),
    hostname: Type.Optional(Hostname),
  }),
  'os:scheduler_hints': Type.Optional(Hints),
  'OS-SCH-HNT:scheduler_hints': Type.Optional(Hints),
});
export type CreateServer = Static<typeof CreateServer>;

export const UpdateServer = exactly({
  server: exactly({
    name: Type.Optional(Name),
    description: Type.Optional(Description),
    accessIPv4: Type.Optional(Address),
    accessIPv6: Type.Optional(Address),
    'OS-DCF:diskConfig': Type.Optional(DiskConfig),
    hostname: Type.Optional(Hostname),
  }),
});
export type UpdateServer = Static<typeof UpdateServer>['server'];

export const TagsBody = exactly({ tags: Tags });
