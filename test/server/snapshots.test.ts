/** Snapshots and restores of a whole node, as clients and operators meet them. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ControlClient } from '../../server/control/client.ts';
import type { OperationStatus } from '../../server/control/snapshot-schemas.ts';
import { NbdClient, type NbdClientOptions } from '../../server/nbd-client.ts';
import { startLocal, temporaryFolder } from '../fixtures/local-node.ts';

const MIB = 1024 * 1024;
const REGION = 64 * 1024;

async function start(t: Test, folder: string) {
  const { node, devices } = await startLocal(t, folder);
  const control = new ControlClient(node.controlPath);
  t.teardown(() => control.close());
  const open = (name: string, options: NbdClientOptions = {}): Promise<NbdClient> =>
    NbdClient.connect(`nbd+unix:///${name}?socket=${join(folder, 'nbd.sock')}`, options);
  const byteAt = async (name: string, offset: number): Promise<number | undefined> => {
    const client = await open(name);
    const [byte] = await client.readBuffer(offset, 1);
    await client.disconnect();
    return byte;
  };
  const done = async (group: string, begun: OperationStatus): Promise<OperationStatus> => {
    let now = begun;
    while (now.state === 'running') {
      await new Promise((resolve) => setTimeout(resolve, 5));
      now = await control.operation(group, begun.id);
    }
    return now;
  };
  const nobody = async (): Promise<void> => {
    while (node.status().sessions.length > 0) await new Promise((resolve) => setImmediate(resolve));
  };
  return { node, devices, control, open, byteAt, done, nobody };
}

async function write(client: NbdClient, region: number, value: number): Promise<void> {
  await client.write(Buffer.alloc(4096, value), region * REGION);
}

t.test('a snapshot is read, written, compared, restored and undone', async (t) => {
  const folder = await temporaryFolder(t);
  const { node, control, open, byteAt, done, nobody } = await start(t, folder);
  await control.createGroup({ name: 'g', logSize: 4 * MIB, volumes: [{ name: 'v', size: 4 * MIB }] });
  t.equal(node.groupStatus('g').mode, 'direct');
  const writer = await open('g/v');
  await write(writer, 1, 1);
  await control.createSnapshot('g', { name: 'a' });
  t.equal(node.groupStatus('g').mode, 'logged');
  await write(writer, 1, 2);
  await write(writer, 3, 2);
  t.equal((await writer.readBuffer(3 * REGION, 1))[0], 2, 'a write is seen before it is applied');
  t.strictSame([await byteAt('g/v@a', REGION), await byteAt('g/v@a', 3 * REGION)], [1, 0]);
  const page = await control.changes('g', 'v', 'a', undefined, 0);
  t.strictSame(page.extents, [
    { offset: REGION, length: REGION },
    { offset: 3 * REGION, length: REGION },
  ]);
  await control.createSnapshot('g', { name: 'b' });
  const backup = await open('g/v@b', { contexts: ['qemu:dirty-bitmap:a', 'tidemark:changed:a'] });
  const status = await backup.blockStatus(0, 4 * MIB);
  t.strictSame(status.get('qemu:dirty-bitmap:a'), [
    { lengthBytes: REGION, flags: 0 },
    { lengthBytes: REGION, flags: 1 },
    { lengthBytes: REGION, flags: 0 },
    { lengthBytes: REGION, flags: 1 },
    { lengthBytes: 60 * REGION, flags: 0 },
  ]);
  await write(backup, 5, 9);
  await backup.disconnect();
  t.equal(await byteAt('g/v', 5 * REGION), 0, 'what is written through a snapshot stays there');

  await t.rejects(control.restore('g', 'a', {}), { code: 'in-use', message: /may write g\/v/ });
  await writer.disconnect();
  await nobody();
  t.match(await control.planRestore('g', 'a', undefined), { regions: 2, bytes: 2 * REGION });
  const restored = await control.restore('g', 'a', {});
  t.strictSame([await byteAt('g/v', REGION), await byteAt('g/v', 3 * REGION)], [1, 0], 'at once');
  t.match(await done('g', restored.operation), { kind: 'restore', state: 'done', total: 2, done: 2 });
  t.equal(node.groupStatus('g').counters?.regionsRestored, 2, 'the regions of the map, and no other');
  t.equal(await byteAt('g/v@b', 3 * REGION), 2, 'the other snapshot is as it was');
  await done('g', (await control.restore('g', 'undo', {})).operation);
  t.equal(await byteAt('g/v', REGION), 2, 'undone');

  for (const name of ['a', 'b', 'undo']) await control.deleteSnapshot('g', name, false);
  t.strictSame(await control.snapshots('g'), []);
  while (node.groupStatus('g').mode !== 'direct') await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(await byteAt('g/v', REGION), 2);
  const types = new Set(node.events.since(0).map((event) => event.type));
  for (const type of ['snapshot.created', 'restore.started', 'restore.completed', 'snapshot.deleted'])
    t.ok(types.has(type), type);
  t.match(await control.metrics(), /^tidemark_regions_restored_total\{group="g"\} 4$/m);
});

t.test('snapshots outlive the node, and what was acknowledged with them', async (t) => {
  const folder = await temporaryFolder(t);
  const first = await start(t, folder);
  await first.control.createGroup({ name: 'g', logSize: MIB, volumes: [{ name: 'v', size: MIB }] });
  await first.control.createSnapshot('g', { name: 'a' });
  const writer = await first.open('g/v');
  await write(writer, 2, 7);
  await writer.disconnect();
  t.same(await first.node.stop(), []);
  const again = await start(t, folder);
  t.match(again.node.groupStatus('g'), {
    mode: 'logged',
    snapshots: [{ name: 'a', volumes: [{ preservedRegions: 1 }] }],
  });
  t.strictSame([await again.byteAt('g/v', 2 * REGION), await again.byteAt('g/v@a', 2 * REGION)], [7, 0]);
});

t.test('a refresh and a detach leave sessions and devices of a snapshot on it', async (t) => {
  const folder = await temporaryFolder(t);
  const { node, control, open, devices, done } = await start(t, folder);
  await control.createGroup({ name: 'g', logSize: MIB, volumes: [{ name: 'v', size: MIB }] });
  await control.createSnapshot('g', { name: 'a' });
  const writer = await open('g/v');
  await write(writer, 0, 5);
  await control.attach({ export: 'g/v@a' });
  const ticket = devices.requests[0]?.connectAs ?? '';
  t.match(ticket, /^@device-/);
  await t.rejects(open(encodeURIComponent(ticket)), 'the ticket was good for the attach only');
  const reader = await open('g/v@a');
  t.equal((await reader.readBuffer(0, 1))[0], 0);
  await t.rejects(control.refreshSnapshot('g', 'a', false), { code: 'in-use', message: /may write g\/v@a/ });
  await node.snapshots.rename('g', 'a', 'b').catch((error: Error) => t.match(error.message, /attached to/));
  await control.detach('/dev/nbd0', false);
  await control.renameSnapshot('g', 'a', 'b');
  t.match(node.status().sessions, [{}, { exportName: 'g/v@b' }]);
  t.equal((await reader.readBuffer(0, 1))[0], 0, 'by its new name');
  await done('g', await control.detachSnapshot('g', 'b'));
  t.match(await control.snapshots('g'), [{ name: 'b', state: 'detached' }]);
  t.equal((await reader.readBuffer(0, 1))[0], 0, 'detached beneath its session');
  await t.rejects(control.deleteGroup('g'), { code: 'in-use' });
  await Promise.all([reader.disconnect(), writer.disconnect()]);
});

t.test('a device on a snapshot shows the new image after a refresh', async (t) => {
  const folder = await temporaryFolder(t);
  const { node, control, devices, open } = await start(t, folder);
  await control.createGroup({ name: 'g', logSize: MIB, volumes: [{ name: 'v', size: MIB }] });
  await control.createSnapshot('g', { name: 'a' });
  const writer = await open('g/v');
  await write(writer, 0, 5);
  // As the helper of a kernel device connects.
  let session: NbdClient | undefined;
  const attach = devices.attach.bind(devices);
  devices.attach = async (request) => {
    session = await open(encodeURIComponent(request.connectAs ?? ''));
    return await attach(request);
  };
  await control.attach({ export: 'g/v@a' });
  t.equal((await session?.readBuffer(0, 1))?.[0], 0);
  await control.refreshSnapshot('g', 'a', false);
  t.strictSame(devices.steps, ['hold /dev/nbd0', 'drop /dev/nbd0']);
  t.equal((await session?.readBuffer(0, 1))?.[0], 5);
  t.match(node.status().sessions[1], { exportName: 'g/v@a', kernelDevice: true });
  await Promise.all([writer.disconnect(), session?.disconnect()]);
});

t.test('an image is imported: what differs, and nothing else', async (t) => {
  const folder = await temporaryFolder(t);
  const { control, byteAt, done, open } = await start(t, folder);
  await control.createGroup({ name: 'g', logSize: MIB, volumes: [{ name: 'v', size: MIB }] });
  await control.createSnapshot('g', { name: 'a' });
  const image = join(await temporaryFolder(t), 'v.img');
  const bytes = Buffer.alloc(MIB);
  bytes.fill(8, 6 * REGION, 7 * REGION);
  await writeFile(image, bytes);
  const imported = await done('g', await control.import('g', 'v', { file: image }));
  t.match(imported, {
    state: 'done',
    result: { regionsCompared: 16, regionsWritten: 1, bytesWritten: REGION },
  });
  t.strictSame([await byteAt('g/v', 6 * REGION), await byteAt('g/v@a', 6 * REGION)], [8, 0]);
  await writeFile(image, Buffer.alloc(MIB + 512));
  await t.rejects(control.import('g', 'v', { file: image }), { code: 'invalid', message: /that fits/ });
  await t.rejects(control.import('g', 'v', { file: `${image}.none` }), { code: 'not-found' });
  await t.rejects(control.import('g', 'v', { file: 'relative' }), { code: 'invalid' });
  const writer = await open('g/v');
  await t.rejects(control.import('g', 'v', { file: image }), { code: 'in-use' });
  await writer.disconnect();
});
