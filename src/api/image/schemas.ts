import { Type } from '@fastify/type-provider-typebox';
import { containerFormats, diskFormats, imageVisibilities } from '#core/image.ts';

const oneOf = <const T extends string>(values: readonly T[]) => Type.Unsafe<T>({ type: 'string', enum: [...values] });
const int32 = Type.Integer({ minimum: 0, maximum: 2_147_483_647 });

/** Fields of an image that a user sets. See Image API v2, "Create image". */
const settable = {
  name: Type.Union([Type.String({ maxLength: 255 }), Type.Null()]),
  visibility: oneOf(imageVisibilities),
  disk_format: Type.Union([oneOf(diskFormats), Type.Null()]),
  container_format: Type.Union([oneOf(containerFormats), Type.Null()]),
  min_disk: int32,
  min_ram: int32,
  protected: Type.Boolean(),
  os_hidden: Type.Boolean(),
  tags: Type.Array(Type.String({ minLength: 1, maxLength: 255 }), { maxItems: 128 }),
};

/** Fields of an image that only we set. */
export const readOnlyFields = [
  'created_at',
  'updated_at',
  'status',
  'size',
  'virtual_size',
  'checksum',
  'os_hash_algo',
  'os_hash_value',
  'direct_url',
  'locations',
  'self',
  'file',
  'schema',
  'deleted',
  'deleted_at',
] as const;

/** Fields that every image has; anything else is a custom property. */
export const baseFields: readonly string[] = [...Object.keys(settable), ...readOnlyFields, 'id', 'owner'];

const customProperty = Type.String({ maxLength: 65_535 });
const customProperties = {
  additionalProperties: customProperty,
  maxProperties: 160,
  propertyNames: { minLength: 1, maxLength: 255 },
};

export const createImageRequest = Type.Object(
  {
    ...Type.Partial(Type.Object(settable)).properties,
    id: Type.Optional(Type.String({ pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' })),
    owner: Type.Optional(Type.Union([Type.String({ minLength: 1, maxLength: 64 }), Type.Null()])),
  },
  customProperties,
);

/** An image's settable fields and custom properties together, as a patch sees and must leave them. */
export const imageDocument = Type.Object(settable, customProperties);

/** A JSON patch over that document. See RFC 6902; paths have one segment. */
export const patchRequest = Type.Array(
  Type.Object(
    {
      op: oneOf(['add', 'replace', 'remove']),
      path: Type.String({ minLength: 2, maxLength: 512, pattern: '^/[^/]+$' }),
      value: Type.Optional(Type.Unknown()),
    },
    { additionalProperties: false },
  ),
  { maxItems: 256 },
);

export const imageParams = Type.Object({ id: Type.String() });
export const tagParams = Type.Object({ id: Type.String(), tag: Type.String({ minLength: 1, maxLength: 255 }) });
/** Filters besides these are custom properties. */
export const listImagesQuery = Type.Record(Type.String({ maxLength: 255 }), Type.String({ maxLength: 1024 }));
