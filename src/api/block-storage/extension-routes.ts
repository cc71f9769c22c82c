import type { ApiApp } from '#api/app.ts';
import { contextOf } from '#api/auth.ts';
import { NightlatchError, shorten } from '#core/errors.ts';

/** What of Cinder's extensions is served: alias, name and date of each. */
const extensions = [
  ['os-availability-zone', 'AvailabilityZones', '2013-06-27'],
  ['capabilities', 'Capabilities', '2015-08-31'],
  ['os-hosts', 'Hosts', '2011-06-29'],
  ['os-quota-class-sets', 'QuotaClasses', '2012-03-12'],
  ['os-quota-sets', 'Quotas', '2011-08-08'],
  ['scheduler-stats', 'Scheduler_stats', '2014-09-07'],
  ['os-services', 'Services', '2012-10-28'],
  ['os-types-extra-specs', 'TypesExtraSpecs', '2011-08-24'],
  ['os-types-manage', 'TypesManage', '2011-08-24'],
  ['os-used-limits', 'UsedLimits', '2013-10-03'],
  ['os-volume-type-access', 'VolumeTypeAccess', '2014-06-26'],
  ['encryption', 'VolumeTypeEncryption', '2013-07-01'],
] as const;

const presented = extensions.map(([alias, name, date]) => ({
  alias,
  name,
  description: `${name} support.`,
  updated: `${date}T00:00:00+00:00`,
  links: [],
}));

/** The extensions of the API, for clients of before there were microversions. */
export function addExtensionRoutes(app: ApiApp): void {
  app.get('/extensions', async (request) => {
    contextOf(request);
    return { extensions: presented };
  });
  app.get('/extensions/:alias', async (request) => {
    contextOf(request);
    const { alias } = request.params as { alias: string };
    const extension = presented.find((one) => one.alias === alias);
    if (!extension)
      throw new NightlatchError('not-there', { reason: `Extension ${shorten(alias)} could not be found.` });
    return { extension };
  });
}
