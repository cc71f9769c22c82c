import { type Static, Type } from 'typebox';
import { exactly, Name } from '#api/fields.ts';

export const CreateKeypair = exactly({
  keypair: exactly({
    name: Name,
    public_key: Type.Optional(Type.Union([Type.String({ maxLength: 65_535 }), Type.Null()])),
    type: Type.Optional(Type.Enum(['ssh', 'x509'])),
    user_id: Type.Optional(Type.String({ minLength: 1, maxLength: 255 })),
  }),
});
export type CreateKeypair = Static<typeof CreateKeypair>;
