import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { createVolume } from '#api/block-storage/create-volume.ts';
import { flagFrom } from '#api/block-storage/fields.ts';
import { nextPage } from '#api/block-storage/links.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { volumeActionCalls } from '#api/block-storage/volume-actions.ts';
import { type Listed, volumesFor } from '#api/block-storage/volume-list.ts';
import { getVolume } from '#api/block-storage/volume-lookup.ts';
import { presentVolume, presentVolumeSummary, surroundingsOf } from '#api/block-storage/volume-presenter.ts';
import {
  CreateVolume,
  refuseUnknownFields,
  UpdateVolume,
  VolumeActionBody,
} from '#api/block-storage/volume-schemas.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { MIB } from '#core/sizes.ts';
import { findMigration, type VolumeMigration } from '#db/volume-migrations.ts';
import { updateVolume, type Volume } from '#db/volumes.ts';

type Id = { id: string };

/** Volumes: list, show, create, update, delete, and actions on them. See Block Storage API v3 "Volumes". */
export function addVolumeRoutes(app: ApiApp, services: BlockStorageServices): void {
  const { db, publicUrl } = services;
  const shown = async (request: FastifyRequest, volume: Volume, isWhole = true) =>
    presentVolume(request, publicUrl, volume, await surroundingsOf(db, [volume]), isWhole);
  const find = (request: FastifyRequest, action: Parameters<typeof allowed>[1]) =>
    getVolume(db, (request.params as Id).id, allowed(request, action));

  app.get('/volumes', async (request) => {
    const listed = await volumesFor(request, db, allowed(request, 'volume:get_all'));
    const volumes = listed.items.map((volume) => presentVolumeSummary(request, publicUrl, volume));
    return page(request, publicUrl, { kind: 'volumes', path: 'volumes', listed, volumes });
  });
  app.get('/volumes/detail', async (request) => {
    const listed = await volumesFor(request, db, allowed(request, 'volume:get_all'));
    const surroundings = await surroundingsOf(db, listed.items);
    const volumes = listed.items.map((volume) => presentVolume(request, publicUrl, volume, surroundings));
    return page(request, publicUrl, { kind: 'volumes', path: 'volumes/detail', listed, volumes });
  });
  app.get('/volumes/summary', async (request) => {
    requireFeature(request, 'volume-summary');
    const { items } = await volumesFor(request, db, allowed(request, 'volume:get_all'));
    return { 'volume-summary': summaryOf(request, items) };
  });
  app.get('/volumes/:id', async (request) => ({ volume: await shown(request, await find(request, 'volume:get')) }));
  app.get('/volumes/:id/encryption', async (request) => {
    return await encryptionOf(services, await find(request, 'volume_extension:volume_encryption_metadata'));
  });
  app.get('/volumes/:id/encryption/:key', async (request, reply) => {
    const all = await encryptionOf(services, await find(request, 'volume_extension:volume_encryption_metadata'));
    const { key } = request.params as { key: string };
    if (!Object.hasOwn(all, key))
      throw new NightlatchError('not-there', { reason: 'The resource could not be found.' });
    return await reply.type('application/json').send(JSON.stringify(all[key] ?? null));
  });
  app.get('/volumes/:id/migration', async (request) => {
    const { id } = await find(request, 'volume:get');
    const migration = await findMigration(db, id);
    if (!migration) throw new NightlatchError('not-there', { reason: `The data of volume ${id} was never moved.` });
    return { migration: presentMigration(migration) };
  });
  app.post('/volumes', { schema: { body: CreateVolume } }, async (request, reply) => {
    const context = allowed(request, 'volume:create');
    refuseUnknownFields(request, request.body.volume);
    const volume = await createVolume(request, request.body.volume, context, services);
    reply.status(202);
    return { volume: await shown(request, volume, false) };
  });
  app.put('/volumes/:id', { schema: { body: UpdateVolume } }, async (request) => {
    const volume = await find(request, 'volume:update');
    await updateVolume(db, volume.id, changeFrom(request.body.volume));
    return { volume: await shown(request, await find(request, 'volume:get'), false) };
  });
  app.delete('/volumes/:id', async (request, reply) => {
    const query = new Query(request);
    const cascade = flagFrom('cascade', query.text('cascade'));
    const force = has(request, 'volume-delete-force') && flagFrom('force', query.text('force'));
    if (force) allowed(request, 'volume:force_delete');
    const context = allowed(request, 'volume:delete');
    const volume = await getVolume(db, (request.params as Id).id, context);
    await services.volumes.delete(volume.id, context, { force, cascade });
    return await reply.status(202).send();
  });
  app.post('/volumes/:id/action', { schema: { body: VolumeActionBody } }, async (request, reply) => {
    const { body } = request;
    const [name = ''] = Object.keys(body);
    const action = Object.hasOwn(volumeActionCalls, name) ? volumeActionCalls[name] : undefined;
    if (!action) throw badRequest(`There is no such action: ${shorten(name, 64)}`);
    const context = allowed(request, action.policy);
    const volume = await getVolume(db, (request.params as Id).id, context);
    const answer = await action.run({ request, body, context, volume, services });
    if (answer === null) return await reply.status(action.status ?? 202).send();
    return await reply.status(action.status ?? 202).send(answer);
  });
}

/** Ours, in the words of Nova's server migrations. `bandwidth`: MiB per second at most; null: as fast as it goes. */
function presentMigration(migration: VolumeMigration): object {
  const { kind, status, copied_bytes, total_bytes, bytes_per_second, reason } = migration;
  return {
    kind,
    status,
    disk_total_bytes: total_bytes,
    disk_processed_bytes: copied_bytes,
    bandwidth: bytes_per_second === 0 ? null : bytes_per_second / MIB,
    reason,
    created_at: presentTime(migration.created_at),
    updated_at: presentTime(migration.updated_at),
  };
}

/** A page of a list, with the link to the next, and the count of all where it was asked for. */
export function page<Item extends { readonly id: string }>(
  request: FastifyRequest,
  publicUrl: string | null,
  {
    kind,
    path,
    listed: { items, count, paging, withCount },
    volumes,
  }: {
    readonly kind: string;
    readonly path: string;
    readonly listed: Listed<Item>;
    readonly volumes: readonly object[];
  },
): object {
  const links = nextPage(request, publicUrl, { path, limit: paging.limit, ids: items.map(({ id }) => id) });
  return {
    [kind]: volumes,
    ...(links.length > 0 ? { [`${kind}_links`]: links } : {}),
    ...(withCount && has(request, 'counts-in-lists') ? { count } : {}),
  };
}

function changeFrom(asked: UpdateVolume) {
  const name = asked.name !== undefined ? asked.name : asked.display_name;
  const description = asked.description !== undefined ? asked.description : asked.display_description;
  return {
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    ...(asked.metadata == null ? {} : { metadata: JSON.stringify(asked.metadata) }),
  };
}

function summaryOf(request: FastifyRequest, volumes: readonly Volume[]): object {
  const metadata: Record<string, string[]> = {};
  for (const [key, value] of volumes.flatMap(({ metadata: own }) => Object.entries(own))) {
    const values = Object.hasOwn(metadata, key) ? (metadata[key] ?? []) : [];
    metadata[key] = [...new Set([...values, value])];
  }
  return {
    total_size: volumes.reduce((sum, { size_gib }) => sum + size_gib, 0),
    total_count: volumes.length,
    ...(has(request, 'summary-metadata') ? { metadata } : {}),
  };
}

/** See "Show volume encryption metadata": of one that is not encrypted only that it has no key. */
async function encryptionOf({ db }: BlockStorageServices, volume: Volume): Promise<Record<string, unknown>> {
  const { secrets } = await surroundingsOf(db, [volume]);
  const { encryption } = volume;
  const encryption_key_id = secrets.get(volume.id) ?? null;
  if (encryption === null) return { encryption_key_id };
  const { provider, cipher, keySize, controlLocation } = encryption;
  return { encryption_key_id, provider, cipher, key_size: keySize, control_location: controlLocation };
}
