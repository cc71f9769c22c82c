import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { sql } from 'kysely';
import { newId, type ProjectId, type ServerId, type UserId } from '#core/ids.ts';
import { insertInstanceAction } from '#db/instance-actions.ts';
import { addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/** The list of what users had done to a server; that operations write it, scenarios show. */
describe('instance actions', () => {
  let lab: ComputeLab;
  let server: ServerId;
  const path = () => `/servers/${server}/os-instance-actions`;

  before(async () => {
    lab = await openComputeLab();
    const flavor = { name: 'small', vcpus: 1, ram: 64, disk: 1 };
    const { body } = await lab.call('POST', '/flavors', { as: 'admin', body: { flavor } });
    const imageRef = await addImage(lab.db, lab.projects.one);
    const asked = { name: 'web', imageRef, flavorRef: body.flavor.id, networks: 'none' };
    server = (await lab.call('POST', '/servers', { version: '2.37', body: { server: asked } })).body.server.id;
    for (const [n, action] of ['create', 'stop', 'extend_volume'].entries()) await add(action, n);
    const failure = { code: 'guest-gone', status: 500, message: 'The guest ended.' };
    lab.operations.ended.set('op-0', { endedAt: new Date('2026-01-01T00:00:09.250Z'), failure: null });
    lab.operations.ended.set('op-1', { endedAt: new Date('2026-01-01T00:00:19Z'), failure });
  });
  after(async () => lab[Symbol.asyncDispose]());

  async function add(action: string, n: number): Promise<void> {
    const by = { user_id: newId<UserId>(), project_id: lab.projects.one as ProjectId };
    const facts = { operation_id: `op-${n}`, server_id: server, action, request_id: `req-${n}`, ...by };
    await insertInstanceAction(lab.db, facts);
    const at = `2026-01-01T00:00:0${n}Z`;
    await sql`update instance_actions set started_at = ${at} where operation_id = ${facts.operation_id}`.execute(
      lab.db,
    );
  }

  it('are listed newest first, with who asked and whether they failed', async () => {
    const { status, body } = await lab.call('GET', path());
    assert.equal(status, 200);
    const shown = body.instanceActions.map((one: Record<string, string>) => [one.action, one.request_id, one.message]);
    assert.deepEqual(shown, [
      ['extend_volume', 'req-2', null],
      ['stop', 'req-1', 'Error'],
      ['create', 'req-0', null],
    ]);
    assert.equal(body.instanceActions[2].start_time, '2026-01-01T00:00:00.000000');
    assert.equal('updated_at' in body.instanceActions[0], false);
  });

  it('one has an event, which admins see with its host, and others from 2.51 on', async () => {
    const one = async (id: string, version: string, as: 'admin' | 'member') =>
      (await lab.call('GET', `${path()}/${id}`, { version, as })).body.instanceAction;
    assert.equal('events' in (await one('req-0', '2.50', 'member')), false);
    const [event] = (await one('req-0', '2.51', 'member')).events;
    assert.deepEqual(
      [event.event, event.result, event.finish_time, 'traceback' in event],
      ['compute__do_build_and_run_instance', 'Success', '2026-01-01T00:00:09.250000', false],
    );
    const [failed] = (await one('req-1', '2.84', 'admin')).events;
    assert.deepEqual(
      [failed.event, failed.result, failed.details],
      ['compute_stop_instance', 'Error', 'The guest ended.'],
    );
    const [underWay] = (await one('req-2', '2.1', 'admin')).events;
    assert.deepEqual([underWay.event, underWay.result, underWay.finish_time], ['compute_extend_volume', null, null]);
  });

  it('are paged and picked by time from 2.58 on', async () => {
    const list = async (query: string, version = '2.66') => lab.call('GET', `${path()}?${query}`, { version });
    const names = async (query: string) =>
      (await list(query)).body.instanceActions.map(({ action }: { action: string }) => action);
    assert.deepEqual(await names('limit=1&marker=req-2'), ['stop']);
    assert.ok((await list('limit=1')).body.links);
    assert.deepEqual(await names('changes-since=2026-01-01T00:00:10Z'), ['stop']);
    assert.deepEqual(await names('changes-before=2026-01-01T00:00:05Z'), ['extend_volume']);
    assert.equal((await list('marker=req-none')).status, 400);
    assert.equal((await list('changes-since=yesterday')).status, 400);
  });

  it('are the project’s own, and those of a deleted server are there from 2.21 on', async () => {
    assert.equal((await lab.call('GET', path(), { as: 'stranger' })).status, 404);
    assert.equal((await lab.call('GET', `${path()}/req-0`, { as: 'stranger' })).status, 404);
    assert.equal((await lab.call('GET', `${path()}/req-none`)).status, 404);
    assert.equal((await lab.call('GET', `/servers/${newId<ServerId>()}/os-instance-actions`)).status, 404);
    await lab.operations.end(server, { vm_state: 'deleted', power_state: 'nostate' });
    assert.equal((await lab.call('GET', path(), { version: '2.20' })).status, 404);
    assert.equal((await lab.call('GET', path(), { version: '2.21' })).body.instanceActions.length, 3);
  });
});
