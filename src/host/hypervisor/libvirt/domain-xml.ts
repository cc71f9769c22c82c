import { NightlatchError } from '#core/errors.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import type { DiskCopy, DomainDisk, DomainSpec } from '#host/hypervisor/hypervisor.ts';
import { placeOf } from '#host/storage/attachment.ts';
import type { DiskAttachment, RbdAttachment } from '#host/storage/storage-driver.ts';
import { element, text, type Xml } from './xml.ts';

/** The namespace of our metadata; a domain is ours when it carries some. */
export const METADATA_NAMESPACE = 'urn:nightlatch:domain:1';

/** Where a host wants things that a server does not decide. */
export type DomainHost = {
  readonly virtType: 'kvm' | 'qemu';
  readonly consoleSocket: (serverId: ServerId) => HostPath;
  readonly consoleLog: (serverId: ServerId) => HostPath;
};

/** Nova's limit for a display name. */
const DISPLAY_NAME_LIMIT = 255;
/** Free slots for disks attached to a running domain: q35 takes a device only where a root port waits for it. */
const HOT_PLUG_PORTS = 8;
/** Ports that the random number generator and the network card take. */
const OTHER_PORTS = 2;

/**
 * The XML of a domain. A display name is cut to 255 characters, and characters XML cannot hold become U+FFFD; nothing
 * else of a server is free text. *See* libvirt.org/formatdomain.html.
 */
export function domainXml(spec: DomainSpec, host: DomainHost): Xml {
  return element(
    'domain',
    { type: host.virtType },
    element('name', {}, text(spec.name)),
    element('uuid', {}, text(spec.serverId)),
    metadata(spec),
    element('memory', { unit: 'MiB' }, text(spec.memoryMib)),
    element('vcpu', {}, text(spec.vcpus)),
    element('os', {}, element('type', { arch: 'x86_64', machine: 'q35' }, text('hvm')), element('boot', { dev: 'hd' })),
    element('features', {}, element('acpi'), element('apic')),
    cpu(host.virtType),
    element('on_poweroff', {}, text('destroy')),
    element('on_reboot', {}, text('restart')),
    element('on_crash', {}, text('destroy')),
    // A guest that puts itself to sleep would be neither running nor paused to us.
    element('pm', {}, element('suspend-to-mem', { enabled: 'no' }), element('suspend-to-disk', { enabled: 'no' })),
    devices(spec, host),
  );
}

/** The XML of a secret that lives only in libvirt's memory and that libvirt gives to nobody but QEMU. */
export function secretXml(uuid: string, usage: string, kind: 'volume' | 'ceph' = 'volume'): Xml {
  return element(
    'secret',
    { ephemeral: 'yes', private: 'yes' },
    element('uuid', {}, text(uuid)),
    element('usage', { type: kind }, element(kind === 'ceph' ? 'name' : 'volume', {}, text(usage))),
  );
}

function metadata(spec: DomainSpec): Xml {
  return element(
    'metadata',
    {},
    element(
      'nightlatch:server',
      { 'xmlns:nightlatch': METADATA_NAMESPACE, id: spec.serverId, project: spec.projectId },
      element('nightlatch:name', {}, text(spec.displayName.slice(0, DISPLAY_NAME_LIMIT))),
    ),
  );
}

function cpu(virtType: DomainHost['virtType']): Xml {
  return element('cpu', { mode: virtType === 'kvm' ? 'host-passthrough' : 'maximum' });
}

function devices(spec: DomainSpec, host: DomainHost): Xml {
  const ports = Array.from({ length: spec.disks.length + OTHER_PORTS + HOT_PLUG_PORTS }, () =>
    element('controller', { type: 'pci', model: 'pcie-root-port' }),
  );
  return element(
    'devices',
    {},
    element('controller', { type: 'pci', model: 'pcie-root' }),
    ...ports,
    ...spec.disks.map(diskXml),
    spec.network === 'user' ? element('interface', { type: 'user' }, element('model', { type: 'virtio' })) : null,
    serial(spec.serverId, host),
    element('rng', { model: 'virtio' }, element('backend', { model: 'random' }, text('/dev/urandom'))),
    element('memballoon', { model: 'none' }),
    element('audio', { id: 1, type: 'none' }),
  );
}

/**
 * `cache='writeback'`: a guest's flush reaches the medium, as with `none`, and the host's page cache holds ciphertext
 * only, because QEMU encrypts above it. `none` needs O_DIRECT, which tmpfs and FUSE refuse. `io='threads'` goes with it.
 */
export function diskXml(disk: DomainDisk): Xml {
  const { attachment, target, device, serial, readonly } = disk;
  return element(
    'disk',
    { type: diskType(attachment), device },
    element('driver', { name: 'qemu', type: attachment.format, cache: 'writeback', io: 'threads' }),
    source(disk),
    element('target', { dev: target, bus: device === 'cdrom' ? 'sata' : 'virtio' }),
    element('serial', {}, text(serial)),
    device === 'cdrom' || readonly ? element('readonly') : null,
  );
}

/** What a disk is copied to, for virDomainBlockCopy. */
export function copyXml(copy: DiskCopy): Xml {
  const { attachment } = copy;
  return element(
    'disk',
    { type: diskType(attachment) },
    element('driver', { name: 'qemu', type: attachment.format, cache: 'writeback' }),
    source(copy),
  );
}

/** A block device may be larger than the disk; the guest sees a slice of exactly the disk's size. QEMU cannot make a slice larger. */
function source({ attachment, encryption, clusterSecretUuid }: DiskCopy): Xml {
  const inside = encryption && encryptionXml(encryption);
  if ('rbd' in attachment) return rbdSource(attachment, clusterSecretUuid, inside);
  const { path, blockDevice } = attachment;
  if (!blockDevice) return element('source', { file: path }, inside);
  if (blockDevice.isWhole) return element('source', { dev: path }, inside);
  const slice = element('slice', { type: 'storage', offset: 0, size: blockDevice.usedBytes });
  return element('source', { dev: path }, element('slices', {}, slice), inside);
}

function diskType(attachment: DiskAttachment): 'network' | 'block' | 'file' {
  if ('rbd' in attachment) return 'network';
  return attachment.blockDevice ? 'block' : 'file';
}

/** ceph.conf says where the cluster is. */
function rbdSource(attachment: RbdAttachment, secretUuid: string | undefined, inside: Xml | null): Xml {
  if (secretUuid === undefined) throw new Error(`${placeOf(attachment)} was given no secret of its cluster`);
  const config = element('config', { file: attachment.rbd.conf });
  const secret = element('secret', { type: 'ceph', uuid: secretUuid });
  const auth = element('auth', { username: attachment.rbd.user }, secret);
  return element('source', { protocol: 'rbd', name: placeOf(attachment) }, config, auth, inside);
}

function encryptionXml({ format, secretUuid }: NonNullable<DomainDisk['encryption']>): Xml {
  if (format !== 'luks') {
    throw new NightlatchError('not-implemented', {
      reason: `QEMU cannot open a disk of encryption format ${format}; only luks.`,
    });
  }
  return element('encryption', { format, engine: 'qemu' }, element('secret', { type: 'passphrase', uuid: secretUuid }));
}

function serial(serverId: ServerId, host: DomainHost): Xml {
  return element(
    'serial',
    { type: 'unix' },
    element('source', { mode: 'bind', path: host.consoleSocket(serverId) }),
    element('log', { file: host.consoleLog(serverId), append: 'on' }),
    element('target', { type: 'isa-serial', port: 0 }),
  );
}
