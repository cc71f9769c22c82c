import { randomBytes } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { type Device, devicesFrom, devicesOfImage } from '#api/compute/block-devices.ts';
import { type BootImage, getBootImage } from '#api/compute/boot-image.ts';
import { type JudgedVolume, judgeDevice } from '#api/compute/boot-volumes.ts';
import { checkFit, getChosenFlavor } from '#api/compute/chosen-flavor.ts';
import { refuseUnserved } from '#api/compute/create-checks.ts';
import { addressFrom, userDataFrom } from '#api/compute/fields.ts';
import { getServerKey } from '#api/compute/keypair-routes.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import { checkMetadataCount } from '#api/compute/server-metadata.ts';
import type { CreateServer } from '#api/compute/server-schemas.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { toBoolean, toInteger } from '#api/fields.ts';
import { resolveEncryptionIntent } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { ImageId } from '#core/ids.ts';
import type { Server } from '#db/servers.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';
import type { ServerRequest, ServerVolume } from '#operations/server-operations.ts';

/** Nobody asks for more servers than this in one request. */
const MAX_COUNT = 100;

export type CreatedServer = {
  /** The first of those asked for. */
  readonly server: Server;
  readonly adminPass: string;
  readonly securityGroups: readonly string[];
  /** The client wants to know the reservation rather than the server. */
  readonly reservationOnly: boolean;
};

type Asked = CreateServer['server'];

/**
 * Judges a request for servers, and sets their creation going. On return their rows are durable.
 *
 * *Throws* bad-request, refused, encryption-conflict or encryption-format-invalid, each before anything was made.
 */
export async function createServers(
  request: FastifyRequest,
  body: CreateServer,
  context: RequestContext,
  services: ComputeServices,
): Promise<CreatedServer> {
  const asked = body.server;
  const { minCount, maxCount } = countsFrom(asked);
  const network = networkFrom(request, asked);
  refuseUnserved(body, request);
  const flavor = await getChosenFlavor(services.db, String(asked.flavorRef), context);
  const boot = await bootFrom(request, asked, flavor, context, services);
  if (maxCount > 1 && boot.volumes.some(({ from }) => from.kind === 'volume')) {
    throw badRequest('Cannot attach one or more volumes to multiple instances');
  }
  const key = await getServerKey(services.db, context, asked.key_name);
  const prototype = prototypeFrom(asked, flavor, boot, { network, key });
  const servers = await createEach(prototype, { minCount, maxCount }, context, services);
  return {
    server: servers[0],
    // Echoed for clients that insist on one; nothing sets it in the guest.
    adminPass: asked.adminPass ?? randomBytes(9).toString('base64url'),
    securityGroups: [...new Set((asked.security_groups ?? [{}]).map(({ name }) => name ?? 'default'))],
    reservationOnly: toBoolean(asked.return_reservation_id ?? false),
  };
}

/** What a server boots from and which volumes it has. */
type Boot = {
  readonly image: BootImage | null;
  readonly volumes: readonly ServerVolume[];
  /** Of the image, or of what its volume was made from. */
  readonly properties: Readonly<Record<string, string>>;
  /** A volume is encrypted, so that what the guest knows of it must not lie in clear elsewhere. */
  readonly encrypted: boolean;
};

async function bootFrom(
  request: FastifyRequest,
  asked: Asked,
  flavor: ServerFlavor,
  context: RequestContext,
  services: ComputeServices,
): Promise<Boot> {
  const devices = await devicesToHave(request, asked, flavor, context, services);
  const root = devices.find(({ bootIndex }) => bootIndex === 0);
  if (!root) throw badRequest('Invalid imageRef provided.');
  const image = root.destination === 'local' ? await getBootImage(services.images, root.id, context) : null;
  if (image) {
    checkFit(flavor, image);
    if (flavor.rootGib === 0) allowed(request, 'os_compute_api:servers:create:zero_disk_flavor');
  }
  const judged: JudgedVolume[] = [];
  for (const device of devices.filter(({ destination }) => destination === 'volume')) {
    judged.push(await judgeDevice(device, context, services));
  }
  const facts = judged.find(({ volume }) => volume.bootIndex === 0)?.imageMetadata ?? {};
  if (flavor.ramMib < Number(facts.min_ram ?? 0)) {
    throw badRequest("Flavor's memory is too small for requested image.");
  }
  return {
    image,
    volumes: judged.map(({ volume }) => volume),
    properties: image?.properties ?? facts,
    encrypted: judged.some(({ encrypted }) => encrypted),
  };
}

/** Those that the request names; where it names an image that stands for volumes, those in its place. */
async function devicesToHave(
  request: FastifyRequest,
  asked: Asked,
  flavor: ServerFlavor,
  context: RequestContext,
  { images }: ComputeServices,
): Promise<Device[]> {
  const devices = devicesFrom(request, asked, flavor);
  const boot = devices.find(({ source, destination }) => source === 'image' && destination === 'local');
  const image = boot ? await images.find(boot.id as ImageId, context) : null;
  if (image?.status !== 'active') return devices;
  const besides = devices.filter((device) => device !== boot);
  return devicesOfImage(request, image, besides, flavor) ?? devices;
}

function prototypeFrom(
  asked: Asked,
  flavor: ServerFlavor,
  { image, volumes, properties, encrypted }: Boot,
  { network, key }: Pick<ServerRequest, 'network' | 'key'>,
): ServerRequest {
  const metadata = asked.metadata ?? {};
  checkMetadataCount(metadata);
  const userData = userDataFrom(asked.user_data);
  const intent = resolveEncryptionIntent(
    { name: flavor.name, properties: flavor.extraSpecs },
    { name: image?.name ?? properties.image_name ?? '', properties },
  );
  return {
    name: asked.name,
    description: asked.description ?? null,
    flavor,
    image: image && { id: image.id, virtualSizeBytes: image.virtualSizeBytes },
    volumes,
    intent: intent.encrypted === null && encrypted ? { encrypted: true, format: null } : intent,
    metadata,
    tags: [...new Set(asked.tags ?? [])].sort(),
    userData,
    // There is no metadata service, so the config drive is the one way for these to reach the guest.
    configDrive: toBoolean(asked.config_drive ?? false) || userData !== null || key !== null,
    network,
    key,
    hostname: asked.hostname?.toLowerCase() ?? null,
    launchIndex: 0,
    diskConfig: asked['OS-DCF:diskConfig'] ?? 'AUTO',
    accessIpv4: addressFrom('accessIPv4', asked.accessIPv4),
    accessIpv6: addressFrom('accessIPv6', asked.accessIPv6),
    reservationId: `r-${randomBytes(4).toString('hex')}`,
  };
}

/** Creates up to `maxCount`; fewer than `minCount` are as good as none, and undone. */
async function createEach(
  prototype: ServerRequest,
  { minCount, maxCount }: { minCount: number; maxCount: number },
  context: RequestContext,
  { operations }: ComputeServices,
): Promise<[Server, ...Server[]]> {
  const nth = (i: number): ServerRequest => (maxCount === 1 ? prototype : nthOf(prototype, i));
  const first = await operations.create(nth(0), context);
  const servers: [Server, ...Server[]] = [first];
  try {
    while (servers.length < maxCount) {
      servers.push(await operations.create(nth(servers.length), context));
    }
  } catch (error) {
    if (servers.length >= minCount) return servers;
    for (const { id } of servers) await operations.act('delete', id, context);
    throw error;
  }
  return servers;
}

/** Servers of one request are told apart by a number. */
function nthOf(prototype: ServerRequest, i: number): ServerRequest {
  const { name, hostname } = prototype;
  const suffix = `-${i + 1}`;
  return {
    ...prototype,
    name: `${name}${suffix}`,
    hostname: hostname === null ? null : `${hostname.slice(0, 63 - suffix.length)}${suffix}`,
    launchIndex: i,
  };
}

function countsFrom(asked: Asked): { minCount: number; maxCount: number } {
  const minCount = toInteger('min_count', asked.min_count ?? 1, 1);
  const maxCount = toInteger('max_count', asked.max_count ?? minCount, 1);
  if (minCount > maxCount) throw badRequest('min_count must be <= max_count');
  if (maxCount > MAX_COUNT) {
    throw new NightlatchError('refused', {
      reason: `Quota exceeded for instances: Requested ${maxCount}, but at most ${MAX_COUNT} can be asked for at once`,
    });
  }
  return { minCount, maxCount };
}

function networkFrom(request: FastifyRequest, asked: Asked): ServerRequest['network'] {
  const { networks } = asked;
  if (networks === undefined) {
    if (has(request, 'networks-required')) throw badRequest("'networks' is a required property");
    return 'none';
  }
  if (typeof networks === 'string') {
    if (has(request, 'networks-required')) return networks === 'auto' ? 'user' : 'none';
    throw badRequest(`Invalid input for field/attribute networks: '${networks}' came with microversion 2.37.`);
  }
  if (networks.length === 0) return 'none';
  const named = networks[0]?.uuid ?? networks[0]?.port ?? networks[0]?.fixed_ip ?? '';
  throw badRequest(
    `Network ${shorten(named, 64)} could not be found. There is no network service here: ask for the networks 'none' or 'auto'.`,
  );
}
