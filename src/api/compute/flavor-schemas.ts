import { type Static, Type } from 'typebox';
import { BooleanWord, Description, exactly, integerField, KEY_PATTERN, Name, ShortText } from '#api/fields.ts';

// A space may stand within an id, not at its ends.
const FLAVOR_ID = '^(?! )[a-zA-Z0-9. _-]+(?<! )$';

export const CreateFlavor = exactly({
  flavor: exactly({
    name: Name,
    id: Type.Optional(
      Type.Union([Type.String({ minLength: 1, maxLength: 255, pattern: FLAVOR_ID }), Type.Integer(), Type.Null()]),
    ),
    ram: integerField(1),
    vcpus: integerField(1),
    disk: integerField(0),
    'OS-FLV-EXT-DATA:ephemeral': Type.Optional(integerField(0)),
    swap: Type.Optional(integerField(0)),
    rxtx_factor: Type.Optional(
      Type.Union([
        Type.Number({ exclusiveMinimum: 0, maximum: 3.4e38 }),
        Type.String({ pattern: '^[0-9]+(\\.[0-9]+)?$', maxLength: 39 }),
      ]),
    ),
    'os-flavor-access:is_public': Type.Optional(BooleanWord),
    description: Type.Optional(Description),
  }),
});
export type CreateFlavor = Static<typeof CreateFlavor>['flavor'];

export const UpdateFlavor = exactly({ flavor: exactly({ description: Description }) });

const SpecValue = Type.Union([ShortText, Type.Number(), Type.Boolean()]);
const SpecPairs = Type.Record(Type.String({ pattern: KEY_PATTERN }), SpecValue, { additionalProperties: false });
export const CreateExtraSpecs = exactly({ extra_specs: SpecPairs });
export const UpdateExtraSpec = Type.Record(Type.String({ pattern: KEY_PATTERN }), SpecValue, {
  minProperties: 1,
  maxProperties: 1,
  additionalProperties: false,
});

const Tenant = exactly({ tenant: Type.String({ minLength: 1, maxLength: 255, pattern: '^[a-zA-Z0-9-]*$' }) });
export const FlavorAction = Type.Union([exactly({ addTenantAccess: Tenant }), exactly({ removeTenantAccess: Tenant })]);
