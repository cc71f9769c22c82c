/** Ids that sample requests speak of. */
export type SampleIds = {
  readonly servers: string;
  readonly flavors: string;
  readonly images: string;
  readonly users: string;
  readonly projects: string;
  readonly roles: string;
  readonly types: string;
  readonly volumes: string;
  readonly snapshots: string;
  readonly attachments: string;
  readonly backups: string;
  readonly transfers: string;
  readonly messages: string;
  /** The project that the address of a block storage request begins with: that of who asks. */
  readonly scope: string;
};

/**
 * A request that is in order for every route that takes JSON, with every field there is. Servers are asked for on the
 * flavor and with the image named; whether they come to be is the caller's concern.
 */
export function sampleRequests(ids: SampleIds): Readonly<Record<string, unknown>> {
  return {
    'POST /identity/v3/auth/tokens': {
      auth: {
        identity: {
          // The token first: a refused password takes its time.
          methods: ['token', 'password'],
          password: { user: { id: 'x', name: 'x', domain: { id: 'default' }, password: 'x' } },
          token: { id: 'x' },
        },
        scope: { project: { id: 'x', name: 'x', domain: { id: 'default', name: 'x' } } },
      },
    },
    'POST /identity/v3/projects': {
      project: { name: 'new', description: 'x', enabled: true, domain_id: 'default', options: {}, tags: [] },
    },
    'PATCH /identity/v3/projects/:id': { project: { name: 'x', description: 'x', enabled: true } },
    'POST /identity/v3/users': {
      user: {
        name: 'new',
        password: 'x',
        email: 'x',
        enabled: true,
        default_project_id: ids.projects,
        domain_id: 'default',
      },
    },
    'PATCH /identity/v3/users/:id': {
      user: { name: 'x', password: 'x', description: 'x', email: 'x', enabled: true, default_project_id: 'x' },
    },
    'POST /identity/v3/users/:id/password': { user: { original_password: 'x', password: 'y' } },
    'POST /identity/v3/roles': { role: { name: 'new', options: {} } },
    'POST /image/v2/images': {
      ...{ id: '11111111-1111-4111-8111-111111111111', name: 'new', visibility: 'private', disk_format: 'raw' },
      ...{ container_format: 'bare', min_disk: 0, min_ram: 0, protected: false, os_hidden: false, tags: ['a'] },
      ...{ hw_ephemeral_encryption: 'true', colour: 'blue' },
    },
    'PATCH /image/v2/images/:id': [
      { op: 'replace', path: '/name', value: 'new' },
      { op: 'add', path: '/colour', value: 'blue' },
    ],
    'POST /compute/v2.1/flavors': {
      flavor: {
        ...{ name: 'new', id: 'new', ram: 64, vcpus: 1, disk: 1, 'OS-FLV-EXT-DATA:ephemeral': 1, swap: 8 },
        ...{ rxtx_factor: 1.5, 'os-flavor-access:is_public': false, description: 'x' },
      },
    },
    'PUT /compute/v2.1/flavors/:id': { flavor: { description: 'x' } },
    'POST /compute/v2.1/flavors/:id/os-extra_specs': { extra_specs: { 'hw:ephemeral_encryption': 'true' } },
    'PUT /compute/v2.1/flavors/:id/os-extra_specs/:key': { something: 'x' },
    'POST /compute/v2.1/flavors/:id/action': { addTenantAccess: { tenant: 'x' } },
    'POST /compute/v2.1/os-keypairs': {
      keypair: {
        name: 'new',
        public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0Y3yN5vUxC2bq3Lr8sH2F0lXQ2Zb9m2sKz1G1l0T8r x',
        type: 'ssh',
      },
    },
    'POST /compute/v2.1/servers': {
      server: {
        ...{ name: 'new', imageRef: ids.images, flavorRef: ids.flavors, networks: 'none', metadata: { a: 'b' } },
        ...{ min_count: 1, max_count: 1, user_data: 'eHg=', config_drive: true, description: 'x', tags: ['a'] },
        ...{ hostname: 'new', accessIPv4: '192.0.2.1', accessIPv6: '::1', 'OS-DCF:diskConfig': 'AUTO', adminPass: 'x' },
        ...{ availability_zone: 'nova', security_groups: [{ name: 'default' }], return_reservation_id: false },
        block_device_mapping_v2: [
          {
            source_type: 'image',
            destination_type: 'local',
            boot_index: 0,
            uuid: ids.images,
            delete_on_termination: true,
          },
        ],
      },
      'os:scheduler_hints': { a: 'b' },
    },
    'PUT /compute/v2.1/servers/:id': {
      server: { name: 'x', description: 'x', hostname: 'x', accessIPv4: '192.0.2.1', 'OS-DCF:diskConfig': 'MANUAL' },
    },
    'POST /compute/v2.1/servers/:id/action': { 'os-getConsoleOutput': { length: 10 } },
    'POST /compute/v2.1/servers/:id/remote-consoles': { remote_console: { protocol: 'serial', type: 'serial' } },
    'POST /compute/v2.1/servers/:id/metadata': { metadata: { a: 'b' } },
    'PUT /compute/v2.1/servers/:id/metadata': { metadata: { a: 'b' } },
    'PUT /compute/v2.1/servers/:id/metadata/:key': { meta: { something: 'b' } },
    'PUT /compute/v2.1/servers/:id/tags': { tags: ['a', 'b'] },
    'POST /compute/v2.1/servers/:id/os-volume_attachments': {
      volumeAttachment: { volumeId: ids.volumes, device: '/dev/vdb', tag: 'x', delete_on_termination: true },
    },
    'PUT /compute/v2.1/servers/:id/os-volume_attachments/:volumeId': {
      volumeAttachment: { volumeId: ids.volumes, delete_on_termination: true },
    },
    'POST /compute/v2.1/os-volumes': {
      volume: {
        ...{ size: 1, display_name: 'x', display_description: 'x', volume_type: ids.types, metadata: { a: 'b' } },
        ...{ availability_zone: 'nova', snapshot_id: ids.snapshots },
      },
    },
    ...blockStorageSamples(ids),
  };
}

function blockStorageSamples(ids: SampleIds): Readonly<Record<string, unknown>> {
  const encryption = { provider: 'luks', control_location: 'front-end', cipher: 'aes-xts-plain64', key_size: 256 };
  const limits = { volumes: 5, gigabytes: 100, snapshots: '7', per_volume_gigabytes: -1 };
  const samples = {
    'POST /types': {
      volume_type: {
        ...{ name: 'new', description: 'x', extra_specs: { a: 'b' } },
        'os-volume-type-access:is_public': false,
      },
    },
    'PUT /types/:id': { volume_type: { name: 'x', description: 'x', is_public: true } },
    'POST /types/:id/action': { addProjectAccess: { project: ids.projects } },
    'POST /types/:id/extra_specs': { extra_specs: { a: 'b' } },
    'PUT /types/:id/extra_specs/:key': { something: 'x' },
    'POST /types/:id/encryption': { encryption },
    'PUT /types/:id/encryption/:key': { encryption },
    ...volumeSamples(ids),
    'PUT /os-quota-sets/:id': { quota_set: limits },
    'PUT /os-quota-class-sets/:id': { quota_class_set: limits },
  };
  return Object.fromEntries(
    Object.entries(samples).map(([route, body]) => [route.replace(' ', ' /volume/v3/:project_id'), body]),
  );
}

function volumeSamples(ids: SampleIds): Readonly<Record<string, unknown>> {
  const said = { name: 'x', description: 'x' };
  const metadata = { a: 'b' };
  const ofMetadata = (things: string) => ({
    [`POST /${things}/:id/metadata`]: { metadata },
    [`PUT /${things}/:id/metadata`]: { metadata },
    [`PUT /${things}/:id/metadata/:key`]: { meta: { something: 'b' } },
  });
  const ofTransfers = (path: string) => ({
    [`POST /${path}`]: { transfer: { volume_id: ids.volumes, name: 'x', no_snapshots: false } },
    [`POST /${path}/:id/accept`]: { accept: { auth_key: 'x' } },
  });
  return {
    'POST /volumes': {
      volume: {
        ...{ ...said, metadata, size: 1, imageRef: ids.images, volume_type: ids.types },
        ...{ availability_zone: 'nova', multiattach: false },
      },
    },
    'PUT /volumes/:id': { volume: { ...said, metadata } },
    'POST /volumes/:id/action': { 'os-extend': { new_size: 2 } },
    ...ofMetadata('volumes'),
    'POST /snapshots': { snapshot: { ...said, metadata, volume_id: ids.volumes, force: true } },
    'PUT /snapshots/:id': { snapshot: said },
    'POST /snapshots/:id/action': { 'os-update_snapshot_status': { status: 'available', progress: '80%' } },
    ...ofMetadata('snapshots'),
    ...ofTransfers('os-volume-transfer'),
    ...ofTransfers('volume-transfers'),
    'POST /backups': {
      backup: {
        ...{ ...said, metadata, volume_id: ids.volumes, container: 'x', incremental: false, force: true },
        ...{ snapshot_id: ids.snapshots },
      },
    },
    'POST /attachments': {
      attachment: {
        ...{ volume_uuid: ids.volumes, instance_uuid: ids.servers, mode: 'ro' },
        connector: { host: 'x', ip: '192.0.2.1', multipath: false, initiator: null, wwpns: ['x'] },
      },
    },
    'PUT /attachments/:id': { attachment: { connector: { host: 'x' } } },
    'POST /attachments/:id/action': { 'os-complete': {} },
    'PUT /backups/:id': { backup: { ...said, metadata } },
    'POST /backups/:id/restore': { restore: { volume_id: ids.volumes, name: 'x' } },
    'POST /backups/:id/action': { 'os-reset_status': { status: 'available' } },
  };
}

/** The path of a route with real ids in it; `change` may put something else in for a parameter. */
export function pathOf(
  route: { readonly path: string },
  ids: SampleIds,
  change: (real: string) => string = (real) => real,
): string {
  let collection = '';
  const segments = route.path.split('/').map((segment) => {
    const isParameter = segment.startsWith(':');
    const kind = isParameter ? (byName[segment] ?? byCollection[collection] ?? collection) : segment;
    collection = segment;
    if (!isParameter) return segment;
    return change(Object.hasOwn(ids, kind) ? ids[kind as keyof SampleIds] : 'something');
  });
  return segments.join('/');
}

const byName: Readonly<Record<string, keyof SampleIds>> = {
  ':project_id': 'scope',
  ':project': 'projects',
  ':user': 'users',
  ':role': 'roles',
};
const byCollection: Readonly<Record<string, keyof SampleIds>> = {
  'os-quota-sets': 'projects',
  'volume-transfers': 'transfers',
  'os-volume-transfer': 'transfers',
};
