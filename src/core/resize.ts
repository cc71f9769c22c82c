import { badRequest } from '#core/errors.ts';
import { GIB } from '#core/sizes.ts';

type Sizes = { readonly rootGib: number; readonly ephemeralGib: number };

/**
 * Refuses a resize that would cut off what a guest may have written. `rootBytes`: the root disk as it is; null: there is
 * none, the server boots from a volume. Nova finds a
 * smaller disk only once the server was stopped for it, and takes the resize back with a fault.
 *
 * @throws bad-request (400) with Nova's texts.
 */
export function checkGrowsOnly(from: Sizes & { readonly rootBytes: number | null }, to: Sizes): void {
  const hasRoot = from.rootBytes !== null;
  if (hasRoot && to.rootGib === 0 && from.rootGib !== 0)
    throw cannotResize('Resize to zero disk flavor is not allowed.');
  const isRootSmaller = to.rootGib !== 0 && to.rootGib * GIB < (from.rootBytes ?? 0);
  if (isRootSmaller || to.ephemeralGib < from.ephemeralGib) throw cannotResize('Unable to resize disk down.');
}

function cannotResize(reason: string): Error {
  return badRequest(`Server disk was unable to be resized because: ${reason}`);
}
