import { type Static, Type } from 'typebox';
import { BooleanWord, Description, METADATA_KEY, NullableText } from '#api/block-storage/fields.ts';
import { exactly, MAX_INT } from '#api/fields.ts';

const SpecPairs = (keys: string) =>
  Type.Record(Type.String({ pattern: keys }), NullableText, { additionalProperties: false });
const NOT_BLANK = '\\S';

export const CreateType = exactly({
  volume_type: exactly({
    name: Type.String({ minLength: 1, maxLength: 255, pattern: NOT_BLANK }),
    description: Type.Optional(Description),
    extra_specs: Type.Optional(SpecPairs(METADATA_KEY)),
    'os-volume-type-access:is_public': Type.Optional(BooleanWord),
  }),
});
export type CreateType = Static<typeof CreateType>['volume_type'];

export const UpdateType = exactly({
  volume_type: exactly({
    name: Type.Optional(Type.Union([Type.String({ minLength: 1, maxLength: 255 }), Type.Null()])),
    description: Type.Optional(Description),
    is_public: Type.Optional(BooleanWord),
  }),
});
export type UpdateType = Static<typeof UpdateType>['volume_type'];

const KEY_WITHOUT_SPACES = '^[a-zA-Z0-9\\-_:.]{1,255}$';
export const CreateExtraSpecs = exactly({ extra_specs: SpecPairs(KEY_WITHOUT_SPACES) });
export const UpdateExtraSpec = Type.Record(Type.String({ pattern: KEY_WITHOUT_SPACES }), NullableText, {
  minProperties: 1,
  maxProperties: 1,
  additionalProperties: false,
});

const encryptionFields = {
  provider: Type.String({ maxLength: 255 }),
  control_location: Type.Enum(['front-end', 'back-end']),
  cipher: Type.Optional(NullableText),
  key_size: Type.Optional(
    Type.Union([Type.Integer({ minimum: 0, maximum: MAX_INT }), Type.String({ pattern: '^[0-9]{1,9}$' }), Type.Null()]),
  ),
};
// What else is in it is echoed and not kept, as Cinder does.
export const CreateEncryption = exactly({ encryption: Type.Object(encryptionFields) });
export type CreateEncryption = Static<typeof CreateEncryption>['encryption'];
export const UpdateEncryption = exactly({ encryption: Type.Partial(Type.Object(encryptionFields)) });
export type UpdateEncryption = Static<typeof UpdateEncryption>['encryption'];

const Project = exactly({ project: Type.String({ minLength: 1, maxLength: 255 }) });
export const TypeAction = Type.Union([
  exactly({ addProjectAccess: Project }),
  exactly({ removeProjectAccess: Project }),
]);
