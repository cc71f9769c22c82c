import type { Branded } from '#core/ids.ts';

/** A piece of well-formed XML. */
export type Xml = Branded<'Xml'>;

/** An element. Attributes that are undefined, and children that are null, are left out. */
export function element(
  name: string,
  attributes: Readonly<Record<string, string | number | undefined>> = {},
  ...children: readonly (Xml | null)[]
): Xml {
  const parts = Object.entries(attributes).map(([key, value]) =>
    value === undefined ? '' : ` ${key}="${escapeXml(String(value))}"`,
  );
  const content = children.join('');
  return `<${name}${parts.join('')}${content === '' ? '/>' : `>${content}</${name}>`}` as Xml;
}

/** Text as the content of an element. */
export function text(value: string | number): Xml {
  return escapeXml(String(value)) as Xml;
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};

const CHARACTERS = new Map(Object.entries(ENTITIES).map(([character, entity]) => [entity, character]));

/**
 * Any text as XML character data: markup is escaped; tab, line feed and carriage return survive in attributes too; a
 * character that XML 1.0 cannot hold at all (section 2.2: most control characters, lone surrogates, U+FFFE, U+FFFF)
 * becomes U+FFFD.
 */
export function escapeXml(value: string): string {
  return cleanText(value).replace(/[&<>"'\t\n\r]/g, (char) => ENTITIES[char] ?? `&#${char.charCodeAt(0)};`);
}

/** The text that an attribute or element of libvirt's stands for. */
export function unescapeXml(xml: string): string {
  return xml.replace(/&(?:amp|lt|gt|quot|apos);/g, (entity) => CHARACTERS.get(entity) ?? entity);
}

/** The text with U+FFFD in place of every character that XML 1.0 cannot hold. */
export function cleanText(value: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters looked for.
  return value.toWellFormed().replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '\ufffd');
}
