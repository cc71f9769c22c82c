import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import { BooleanWord, flagFrom, NullableName, toBoolean } from '#api/block-storage/fields.ts';
import { linksTo } from '#api/block-storage/links.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { pageOf, readPaging } from '#api/block-storage/paging.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getVolume } from '#api/block-storage/volume-lookup.ts';
import { exactly, isStorableText } from '#api/fields.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { badRequest, notFound } from '#core/errors.ts';
import type { TransferId } from '#core/ids.ts';
import { snapshotsOf } from '#db/snapshots.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { findTransfer, listTransfers, type Transfer } from '#db/volume-transfers.ts';
import { findVolumeType } from '#db/volume-types.ts';
import { findVolume } from '#db/volumes.ts';

type Id = { id: string };

const OfferBody = exactly({
  transfer: exactly({
    volume_id: Type.String({ maxLength: 64 }),
    name: Type.Optional(NullableName),
    no_snapshots: Type.Optional(BooleanWord),
  }),
});
const AcceptBody = exactly({ accept: exactly({ auth_key: Type.String({ minLength: 1, maxLength: 255 }) }) });

/** Volume transfers, under the name they had before 3.55 too. See Block Storage API v3 "Volume transfers". */
export function addTransferRoutes(app: ApiApp, services: BlockStorageServices): void {
  addRoutes(app, services, 'os-volume-transfer', async () => {});
  addRoutes(app, services, 'volume-transfers', async (request) => requireFeature(request, 'transfer-snapshots'));
}

function addRoutes(
  app: ApiApp,
  services: BlockStorageServices,
  path: string,
  check: (request: FastifyRequest) => Promise<void>,
): void {
  const { db } = services;
  const find = async (request: FastifyRequest, action: BlockStorageAction, isRecipient = false) => {
    const context = allowed(request, action);
    const { id } = request.params as Id;
    const transfer = isStorableText(id) ? await findTransfer(db, id as TransferId) : null;
    // Who knows its id and its key may be of any project.
    const mayLook = isRecipient || context.isAdmin || transfer?.source_project_id === context.projectId;
    if (!transfer || !mayLook) throw notFound('Transfer', id);
    return { context, transfer };
  };
  const present = (request: FastifyRequest, transfer: Transfer, isDetailed = true) =>
    presentTransfer(request, services, { path, transfer, isDetailed });

  for (const isDetailed of [false, true]) {
    app.get(`/${path}${isDetailed ? '/detail' : ''}`, { onRequest: check }, async (request) => {
      const context = allowed(request, 'volume:get_all_transfers');
      const query = new Query(request);
      const isEverywhere = context.isAdmin && flagFrom('all_tenants', query.text('all_tenants'));
      const all = await listTransfers(db, isEverywhere ? null : context.projectId);
      const shown = pageOf(all, readPaging(query), {
        id: ({ id }) => id,
        name: ({ name }) => name,
        created_at: ({ created_at }) => created_at.getTime(),
      });
      return { transfers: shown.map((transfer) => present(request, transfer, isDetailed)) };
    });
  }
  app.get(`/${path}/:id`, { onRequest: check }, async (request) => {
    const { transfer } = await find(request, 'volume:get_transfer');
    return { transfer: present(request, transfer) };
  });
  app.post(`/${path}`, { onRequest: check, schema: { body: OfferBody } }, async (request, reply) => {
    const context = allowed(request, 'volume:create_transfer');
    const asked = request.body.transfer;
    const volume = await getVolume(db, asked.volume_id, context);
    if (asked.no_snapshots !== undefined && !has(request, 'transfer-snapshots')) {
      throw badRequest("Additional properties are not allowed ('no_snapshots' was unexpected)");
    }
    const noSnapshots = toBoolean(asked.no_snapshots ?? false);
    const offered = await services.transfers.offer(volume.id, { name: asked.name ?? null, noSnapshots });
    reply.status(202);
    return { transfer: { ...present(request, offered.transfer), auth_key: offered.authKey } };
  });
  app.post(`/${path}/:id/accept`, { onRequest: check, schema: { body: AcceptBody } }, async (request, reply) => {
    const { context, transfer } = await find(request, 'volume:accept_transfer', true);
    const volume = await findVolume(db, transfer.volume_id);
    if (!volume) throw notFound('Volume', transfer.volume_id);
    const type = volume.volume_type_id === null ? null : await findVolumeType(db, volume.volume_type_id, null);
    const snapshots = await snapshotsOf(db, volume.id);
    const more = {
      volumes: 1,
      snapshots: snapshots.length,
      gigabytes: volume.size_gib + snapshots.reduce((sum, { size_gib }) => sum + size_gib, 0),
    };
    const quota = { kind: 'volume', more, volumeType: type?.name ?? null } as const;
    await services.transfers.accept(transfer, request.body.accept.auth_key, context, (tx) =>
      checkQuota(tx, context.projectId, quota),
    );
    reply.status(202);
    return { transfer: present(request, transfer, false) };
  });
  app.delete(`/${path}/:id`, { onRequest: check }, async (request, reply) => {
    const { transfer } = await find(request, 'volume:delete_transfer');
    await services.transfers.withdraw(transfer);
    return await reply.status(202).send();
  });
}

function presentTransfer(
  request: FastifyRequest,
  { publicUrl }: BlockStorageServices,
  { path, transfer, isDetailed }: { readonly path: string; readonly transfer: Transfer; readonly isDetailed: boolean },
): object {
  const { id, name, volume_id } = transfer;
  return {
    id,
    name,
    volume_id,
    ...(isDetailed ? { created_at: presentTime(transfer.created_at) } : {}),
    ...(isDetailed && has(request, 'transfer-snapshots') ? { no_snapshots: transfer.no_snapshots } : {}),
    ...(isDetailed && has(request, 'transfer-history')
      ? {
          source_project_id: transfer.source_project_id,
          destination_project_id: transfer.destination_project_id,
          accepted: transfer.accepted,
        }
      : {}),
    links: linksTo(request, publicUrl, `${path}/${id}`),
  };
}
