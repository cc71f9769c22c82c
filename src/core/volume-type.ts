import { badRequest } from '#core/errors.ts';

/** The type that always exists. */
export const DEFAULT_VOLUME_TYPE = '__DEFAULT__';

/**
 * What a copy of an encrypted volume gets of its own: a passphrase, its data staying as it is, or a volume key too, with
 * its data encrypted anew.
 */
export const cloneKeys = ['passphrase', 'volume-key'] as const;
export type CloneKey = (typeof cloneKeys)[number];
/** The extra spec that says which. */
export const CLONE_KEY_SPEC = 'nightlatch:clone_key';

/** Extra specs as a volume type has them. */
export type TypeExtraSpecs = Readonly<Record<string, string | null>>;

/** What copies of volumes of this type get. */
export function cloneKeyOf(specs: TypeExtraSpecs): CloneKey {
  return cloneKeys.find((known) => known === specs[CLONE_KEY_SPEC]) ?? 'passphrase';
}

/** Refuses extra specs of ours that mean nothing; what others mean by theirs is their concern. @throws bad-request. */
export function checkTypeExtraSpecs(specs: TypeExtraSpecs): void {
  const asked = specs[CLONE_KEY_SPEC];
  if (asked === undefined || cloneKeys.some((known) => known === asked)) return;
  throw badRequest(`The extra spec ${CLONE_KEY_SPEC} must be ${cloneKeys.join(' or ')}.`);
}
