import { type Static, Type } from 'typebox';
import { Metadata } from '#api/compute/fields.ts';
import { Address, DiskConfig, Hostname, UserData, Word } from '#api/compute/server-schemas.ts';
import { BooleanWord, Description, exactly, Name, ShortText } from '#api/fields.ts';

export const Resize = exactly({
  flavorRef: Type.Union([Type.String({ minLength: 1, maxLength: 1024 }), Type.Integer()]),
  'OS-DCF:diskConfig': Type.Optional(DiskConfig),
});
export type Resize = Static<typeof Resize>;

export const Rebuild = exactly({
  imageRef: Type.String({ maxLength: 255 }),
  name: Type.Optional(Name),
  adminPass: Type.Optional(ShortText),
  metadata: Type.Optional(Metadata),
  preserve_ephemeral: Type.Optional(BooleanWord),
  'OS-DCF:diskConfig': Type.Optional(DiskConfig),
  accessIPv4: Type.Optional(Address),
  accessIPv6: Type.Optional(Address),
  personality: Type.Optional(Type.Array(Type.Object({}), { maxItems: 64 })),
  description: Type.Optional(Description),
  key_name: Type.Optional(Type.Union([Name, Type.Null()])),
  user_data: Type.Optional(UserData),
  trusted_image_certificates: Type.Optional(Type.Union([Type.Array(Word, { maxItems: 50 }), Type.Null()])),
  hostname: Type.Optional(Hostname),
  reimage_boot_volume: Type.Optional(BooleanWord),
});
export type Rebuild = Static<typeof Rebuild>;
