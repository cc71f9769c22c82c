import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Failure } from '#api/failure.ts';
import type { Image } from '#core/image.ts';

/** An image in the Image API's shape; custom properties are fields like any other. */
export function presentImage(image: Image): object {
  return {
    ...image.properties,
    id: image.id,
    name: image.name,
    status: image.status,
    visibility: image.visibility,
    owner: image.projectId,
    disk_format: image.diskFormat,
    container_format: image.containerFormat,
    size: image.sizeBytes,
    virtual_size: image.virtualSizeBytes,
    checksum: image.md5,
    os_hash_algo: image.sha512 === null ? null : 'sha512',
    os_hash_value: image.sha512,
    min_disk: image.minDiskGib,
    min_ram: image.minRamMib,
    protected: image.protected,
    os_hidden: image.hidden,
    tags: image.tags,
    created_at: presentTime(image.createdAt),
    updated_at: presentTime(image.updatedAt),
    self: `/v2/images/${image.id}`,
    file: `/v2/images/${image.id}/file`,
    schema: '/v2/schemas/image',
  };
}

function presentTime(time: Date): string {
  return time.toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Glance's error body: HTML, or JSON to a client that asks for it. */
export function presentImageFailure(failure: Failure, request: FastifyRequest, reply: FastifyReply): unknown {
  const code = `${failure.status} ${failure.title}`;
  const message = escapeHtml(failure.message);
  if (request.headers.accept?.includes('application/json')) {
    return { message: `${message}<br /><br />\n\n\n`, code, title: failure.title };
  }
  reply.type('text/html; charset=UTF-8');
  const body = `<h1>${code}</h1>\n  ${message}<br /><br />\n\n\n\n`;
  return `<html>\n <head>\n  <title>${code}</title>\n </head>\n <body>\n  ${body} </body>\n</html>`;
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => entities[character] ?? '');
}
