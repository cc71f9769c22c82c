import type { RequestContext } from '#api/auth.ts';
import { mayDo } from '#api/block-storage/policy.ts';
import { presentTime } from '#api/times.ts';
import type { TypeExtraSpecs } from '#core/volume-type.ts';
import type { VolumeType, VolumeTypeEncryption } from '#db/volume-types.ts';

/** What of extra specs everybody may see: what a volume of the type can do, and nothing of where it lies. */
const userVisible: readonly string[] = ['RESKEY:availability_zones', 'multiattach', 'replication_enabled'];

/** A type as show and list answer. */
export function presentType(type: VolumeType, context: RequestContext): object {
  return {
    ...presentChangedType(type, context),
    ...(mayDo(context, 'volume_extension:access_types_qos_specs_id') ? { qos_specs_id: null } : {}),
    ...presentAccess(type, context),
  };
}

/** A type as its creation answers. */
export function presentNewType(type: VolumeType, context: RequestContext): object {
  return { ...presentChangedType(type, context), ...presentAccess(type, context) };
}

/** A type as a change of it answers. */
export function presentChangedType(type: VolumeType, context: RequestContext): object {
  return {
    id: type.id,
    name: type.name,
    is_public: type.is_public,
    description: type.description,
    extra_specs: visibleSpecs(type.extra_specs, context),
  };
}

/** The extra specs that the caller may see. */
export function visibleSpecs(specs: TypeExtraSpecs, context: RequestContext): TypeExtraSpecs {
  if (mayDo(context, 'volume_extension:types_extra_specs:read_sensitive')) return specs;
  return Object.fromEntries(Object.entries(specs).filter(([key]) => userVisible.includes(key)));
}

/** A type's encryption, all of it; a type without has none of these fields. */
export function presentEncryption(type: VolumeType): Readonly<Record<string, unknown>> {
  const { encryption } = type;
  if (encryption === null) return {};
  return {
    ...presentNewEncryption(type, encryption),
    created_at: presentTime(new Date(encryption.createdAt)),
    updated_at: encryption.updatedAt === null ? null : presentTime(new Date(encryption.updatedAt)),
    deleted: false,
    deleted_at: null,
  };
}

/** A type's encryption as its creation answers. */
export function presentNewEncryption({ id }: VolumeType, encryption: VolumeTypeEncryption): object {
  return {
    volume_type_id: id,
    encryption_id: encryption.id,
    provider: encryption.provider,
    control_location: encryption.controlLocation,
    cipher: encryption.cipher,
    key_size: encryption.keySize,
  };
}

function presentAccess({ is_public }: VolumeType, context: RequestContext): object {
  return mayDo(context, 'volume_extension:volume_type_access') ? { 'os-volume-type-access:is_public': is_public } : {};
}
