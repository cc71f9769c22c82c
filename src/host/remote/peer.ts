import type { PeerCertificate } from 'node:tls';

/** Who may be at an end of a connection: a host, by its name, or the control plane. */
export type Peer = { readonly role: 'host'; readonly name: string } | { readonly role: 'control-plane' };

/** The one name in a certificate of ours (RFC 5280 section 4.2.1.6, a URI). Pure. */
export function peerUri(peer: Peer): string {
  return peer.role === 'host' ? `nightlatch:host:${peer.name}` : 'nightlatch:control-plane';
}

/** Names that need no quoting in a certificate. */
export const HOST_NAME = /^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$/;

/** Why a certificate, whose signature and time TLS has checked, is not this peer's; null when it is. */
export function whyNotPeer(certificate: Pick<PeerCertificate, 'subjectaltname'>, expected: Peer): string | null {
  const uri = peerUri(expected);
  if (certificate.subjectaltname === `URI:${uri}`) return null;
  return `its certificate is for ${certificate.subjectaltname ?? 'nobody'}, not for ${uri}`;
}

/** What each end needs to prove who it is and to check the other: PEM texts. */
export type Credentials = { readonly certificate: string; readonly key: string; readonly ca: string };

/** TLS 1.3 and HTTP/2, or nothing. */
export const TLS_OPTIONS = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', ALPNProtocols: ['h2'] } as const;

/** A disk's bytes go at the speed of the network, whatever its latency. */
export const WINDOW_BYTES = 4 * 1024 * 1024;
