import { XMLBuilder, XMLParser } from 'fast-xml-parser';
import type { DomainSpec, PresentDisk } from '#host/hypervisor/hypervisor.ts';
import { placeOf } from '#host/storage/attachment.ts';
import type { RbdAttachment } from '#host/storage/storage-driver.ts';
import type { DomainHost } from './domain-xml.ts';
import { escapeXml, unescapeXml } from './xml.ts';

/** What fast-xml-parser makes of a document when it must keep order and all it does not know. */
type Node = { readonly [name: string]: Node[] | string | Attributes | undefined; ':@'?: Attributes };
type Attributes = Record<string, string>;

/** Entities stay as they are written, so that what is not ours to change is the same to the last byte. */
const SHAPE = {
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  trimValues: false,
  processEntities: false,
} as const;

/** The UUID in a domain's XML, or null when there is none. */
export function uuidOf(xml: string): string | null {
  const [uuid] = children(domainOf(parse(xml)), 'uuid');
  return textOf(uuid, 'uuid') || null;
}

/**
 * The XML saved with a guest's memory, with the paths and secrets that hold now. All else stays: to the guest, every
 * device must be what and where it was when its memory was saved, whatever a newer QEMU would choose.
 */
export function updateSavedXml(xml: string, spec: DomainSpec, host: DomainHost): string {
  const document = parse(xml);
  const devices = children(domainOf(document), 'devices').flatMap((node) => childNodes(node, 'devices'));
  for (const node of devices) {
    if (node.disk) updateDisk(childNodes(node, 'disk'), spec);
    if (node.serial) updateSerial(childNodes(node, 'serial'), spec, host);
  }
  return new XMLBuilder({ ...SHAPE, suppressEmptyNode: true }).build(document) as string;
}

/** The disks in a domain's XML. */
export function disksIn(xml: string): PresentDisk[] {
  const devices = children(domainOf(parse(xml)), 'devices').flatMap((node) => childNodes(node, 'devices'));
  return devices.flatMap((node) => {
    if (!node.disk) return [];
    const parts = childNodes(node, 'disk');
    const serial = textOf(children(parts, 'serial')[0], 'serial');
    const [mirror] = children(parts, 'mirror');
    const isReady = mirror?.[':@']?.ready === 'yes';
    const copy = mirror ? { path: pathIn(childNodes(mirror, 'mirror')), isReady } : null;
    return [{ target: attributesOf(parts, 'target').dev ?? '', serial, path: pathIn(parts), copy }];
  });
}

function pathIn(parts: readonly Node[]): string {
  const { dev, file, name } = attributesOf(parts, 'source');
  return unescapeXml(dev ?? file ?? name ?? '');
}

function textOf(node: Node | undefined, name: string): string {
  const [content] = node ? childNodes(node, name) : [];
  const value = content?.['#text'];
  return typeof value === 'string' ? value.trim() : '';
}

function updateDisk(parts: readonly Node[], spec: DomainSpec): void {
  const target = attributesOf(parts, 'target').dev;
  const disk = spec.disks.find((candidate) => candidate.target === target);
  if (disk === undefined) return;
  const { attachment } = disk;
  const named = 'rbd' in attachment ? 'name' : attachment.blockDevice ? 'dev' : 'file';
  attributesOf(parts, 'source')[named] = escapeXml(placeOf(attachment));
  const inSource = parts.flatMap((part) => (part.source ? childNodes(part, 'source') : []));
  if ('rbd' in attachment) updateCluster(inSource, attachment, disk.clusterSecretUuid);
  if (disk.encryption === null) return;
  const encryption = [...inSource, ...parts].flatMap((part) => (part.encryption ? childNodes(part, 'encryption') : []));
  attributesOf(encryption, 'secret').uuid = disk.encryption.secretUuid;
}

function updateCluster(inSource: readonly Node[], { rbd }: RbdAttachment, secretUuid: string | undefined): void {
  attributesOf(inSource, 'config').file = escapeXml(rbd.conf);
  attributesOf(inSource, 'auth').username = escapeXml(rbd.user);
  const auth = inSource.flatMap((part) => (part.auth ? childNodes(part, 'auth') : []));
  if (secretUuid !== undefined) attributesOf(auth, 'secret').uuid = secretUuid;
}

function updateSerial(parts: readonly Node[], spec: DomainSpec, host: DomainHost): void {
  attributesOf(parts, 'source').path = escapeXml(host.consoleSocket(spec.serverId));
  attributesOf(parts, 'log').file = escapeXml(host.consoleLog(spec.serverId));
}

function parse(xml: string): Node[] {
  return new XMLParser(SHAPE).parse(xml) as Node[];
}

function domainOf(document: readonly Node[]): Node[] {
  return document.flatMap((node) => (node.domain ? childNodes(node, 'domain') : []));
}

function children(nodes: readonly Node[], name: string): Node[] {
  return nodes.filter((node) => node[name] !== undefined);
}

function childNodes(node: Node, name: string): Node[] {
  const content = node[name];
  return Array.isArray(content) ? content : [];
}

/** The attributes of the first child of that name, to be changed in place. */
function attributesOf(nodes: readonly Node[], name: string): Attributes {
  const [node] = children(nodes, name);
  if (node === undefined) return {};
  node[':@'] ??= {};
  return node[':@'];
}
