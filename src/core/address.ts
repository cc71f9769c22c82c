/** ADDRESS:PORT; an IPv6 address stands in brackets. */
export const ADDRESS_AND_PORT = /^(\[[0-9a-fA-F:]+\]|[^:[\]\s]+):\d{1,5}$/;

/** Takes ADDRESS:PORT apart; the brackets go. */
export function splitAddress(text: string): { readonly address: string; readonly port: number } {
  const colon = text.lastIndexOf(':');
  return { address: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
}
