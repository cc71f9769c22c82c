import { type Static, Type } from 'typebox';
import { Metadata } from '#api/compute/fields.ts';
import { Rebuild, Resize } from '#api/compute/replace-schemas.ts';
import { exactly, Name, ShortText } from '#api/fields.ts';

export const CreateImage = exactly({
  name: Name,
  metadata: Type.Optional(Metadata),
  encryption: Type.Optional(
    exactly({
      key: Type.Enum(['same', 'new', 'existing', 'none']),
      secret_uuid: Type.Optional(Type.String({ maxLength: 36 })),
    }),
  ),
});

const ImageRef = Type.String({ pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' });

/** One action, as the one key of the body. What takes no parameter takes anything, as in Nova. */
export const ActionBody = Type.Object(
  {
    reboot: Type.Optional(exactly({ type: Type.Enum(['SOFT', 'Soft', 'soft', 'HARD', 'Hard', 'hard']) })),
    rescue: Type.Optional(
      Type.Union([
        Type.Null(),
        exactly({ adminPass: Type.Optional(ShortText), rescue_image_ref: Type.Optional(ImageRef) }),
      ]),
    ),
    resize: Type.Optional(Resize),
    rebuild: Type.Optional(Rebuild),
    lock: Type.Optional(Type.Union([Type.Null(), exactly({ locked_reason: Type.Optional(ShortText) })])),
    'os-resetState': Type.Optional(exactly({ state: Type.Union([Type.Literal('active'), Type.Literal('error')]) })),
    'os-getConsoleOutput': Type.Optional(
      exactly({
        length: Type.Optional(
          Type.Union([Type.Integer({ minimum: -1 }), Type.String({ pattern: '^(-1|[0-9]{1,9})$' }), Type.Null()]),
        ),
      }),
    ),
    createImage: Type.Optional(CreateImage),
    unshelve: Type.Optional(
      Type.Union([
        Type.Null(),
        exactly({
          availability_zone: Type.Optional(Type.Union([ShortText, Type.Null()])),
          host: Type.Optional(ShortText),
        }),
      ]),
    ),
    'os-getSerialConsole': Type.Optional(exactly({ type: Type.Literal('serial') })),
  },
  { minProperties: 1, maxProperties: 1 },
);
export type ActionBody = Static<typeof ActionBody>;

/** From 2.6 on; of the protocols only serial is served. */
export const RemoteConsoleBody = exactly({
  remote_console: exactly({
    protocol: Type.Enum(['vnc', 'spice', 'rdp', 'serial', 'mks']),
    type: Type.Union(
      ['novnc', 'xvpvnc', 'spice-html5', 'rdp-html5', 'serial', 'webmks'].map((type) => Type.Literal(type)),
    ),
  }),
});
