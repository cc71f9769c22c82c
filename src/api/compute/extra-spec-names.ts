import { badRequest } from '#core/errors.ts';

/**
 * The extra specs of the namespaces that Compute defines. A name in one of them that is not listed is a slip of the
 * pen; names in other namespaces are anybody's own. See Compute "Extra Specs" in its configuration guide.
 */
const namespaces: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  accel: ['device_profile'],
  aggregate_instance_extra_specs: [/^.+$/],
  capabilities: [/^.+$/],
  hw: [
    'boot_menu',
    'cpu_cores',
    'cpu_dedicated_mask',
    'cpu_max_cores',
    'cpu_max_sockets',
    'cpu_max_threads',
    'cpu_policy',
    'cpu_realtime',
    'cpu_realtime_mask',
    'cpu_sockets',
    'cpu_thread_policy',
    'cpu_threads',
    'emulator_threads_policy',
    'ephemeral_encryption',
    'ephemeral_encryption_format',
    'hide_hypervisor_id',
    'input_bus',
    'locked_memory',
    'maxphysaddr_bits',
    'maxphysaddr_mode',
    'mem_encryption',
    'mem_encryption_model',
    'mem_page_size',
    /^numa_(cpus|mem)\.\d+$/,
    'numa_nodes',
    'pci_numa_affinity_policy',
    'pmem',
    'pmu',
    'serial_port_count',
    'sound_model',
    'tpm_model',
    'tpm_secret_security',
    'tpm_version',
    'usb_model',
    'vif_multiqueue_enabled',
    'viommu_model',
    'virtio_packed_ring',
    'watchdog_action',
    'redirected_usb_ports',
  ],
  hw_rng: ['allowed', 'rate_bytes', 'rate_period'],
  hw_video: ['ram_max_mb'],
  os: ['monitors', 'resolution', 'secure_boot', 'vram', 'watchdog_action'],
  pci_passthrough: ['alias'],
  quota: [
    /^cpu_(cores_)?(limit|reservation|shares_level|shares_share)$/,
    /^cpu_(period|quota|shares)$/,
    /^disk_io_(limit|reservation|shares_level|shares_share)$/,
    /^disk_(read|write|total)_(bytes|iops)_sec(_max(_length)?)?$/,
    /^memory_(limit|reservation|shares_level|shares_share)$/,
    /^vif_(inbound|outbound)_(average|burst|peak)$/,
    /^vif_(limit|reservation|shares_level|shares_share)$/,
  ],
  resources: [/^(VCPU|MEMORY_MB|DISK_GB|PCPU|[A-Z0-9_]+)$/],
  trait: [/^[A-Z0-9_]+$/],
  vmware: ['hw_version', 'storage_policy', 'boot_efi_secure_boot', 'boot_retry'],
};

/** Checks that an extra spec of a known namespace exists. @throws bad-request (400) with Nova's text. */
export function checkExtraSpecName(name: string): void {
  const [head = '', ...tail] = name.split(':');
  // Groups of requests are numbered or named: resources1, trait_GPU.
  const namespace = head.replace(/^(resources|trait)[a-zA-Z0-9_-]{0,64}$/, '$1');
  const known = tail.length > 0 && Object.hasOwn(namespaces, namespace) ? namespaces[namespace] : undefined;
  if (!known) return;
  const rest = tail.join(':');
  if (known.some((entry) => (typeof entry === 'string' ? entry === rest : entry.test(rest)))) return;
  throw badRequest(`Validation failed; extra spec '${name}' does not appear to be a valid extra spec.`);
}
