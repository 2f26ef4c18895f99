/** Snapshots, restores, changes and imports through the control API, and the guard before them (T4). */
import { once } from 'node:events';
import t from 'tap';
import { EngineError } from '../../engine/errors.ts';
import { FAKE_REGION_BYTES, FakeGroup } from '../fixtures/fake-group.ts';
import { startFakeNode } from '../fixtures/fake-node.ts';
import { exportNameHandshake } from '../fixtures/raw-session.ts';
import { until } from '../fixtures/test-server.ts';

const MIB = 1 << 20;
const plain = { connections: 1, readOnly: false, timeoutSeconds: 0 };
const localUri = {
  scheme: 'nbd+unix',
  tls: false,
  address: { kind: 'unix', path: '/x' },
  exportName: '',
} as const;

t.test('the life of a snapshot', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const { client } = await startFakeNode(t, group);
  t.match(await client.createSnapshot('g', { name: 'a', local: true }), {
    name: 'a',
    local: true,
    undoOf: null,
    state: 'attached',
    volumes: [
      { name: 'v', export: 'g/v@a', preservedRegions: 1, modifiedRegions: 0, sessions: 0, devices: [] },
      {},
    ],
  });
  t.match(await client.renameSnapshot('g', 'a', 'b'), { name: 'b' });
  t.match(await client.refreshSnapshot('g', 'b', true), { name: 'b', lsn: 2 });
  t.match((await client.group('g')).snapshots, [{ name: 'b' }]);
  t.match(await client.detachSnapshot('g', 'b'), { id: 'id-1', kind: 'detach', state: 'running', total: 4 });
  t.match(await client.snapshots('g'), [{ name: 'b', state: 'detaching' }]);
  group.operations = [];
  t.match(await client.operation('g', 'id-1'), { state: 'running' }, 'not yet begun, or just between');
  group.snapshots = group.snapshots.map((each) => ({ ...each, state: 'detached' }));
  t.match(await client.operation('g', 'id-1'), { state: 'done', done: 4 });
  await client.deleteSnapshot('g', 'b', false);
  t.strictSame(await client.snapshots('g'), []);
  t.strictSame(group.calls, [
    'createSnapshot a',
    'renameSnapshot a b',
    'refreshSnapshot b true',
    'detachSnapshot b',
    'deleteSnapshot b',
  ]);
});

t.test('a restore answers with its plan, its undo and an operation to follow', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const { client } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  t.strictSame(await client.planRestore('g', 'a', 'w'), {
    snapshot: 'a',
    lsn: 1,
    volumes: [{ name: 'w', regions: 2, bytes: 2 * FAKE_REGION_BYTES }],
    regions: 2,
    bytes: 2 * FAKE_REGION_BYTES,
    links: [],
  });
  t.notOk(
    group.calls.some((call) => call.startsWith('restore')),
    'a plan changes nothing',
  );
  const restored = await client.restore('g', 'a', { volume: 'w' });
  t.match(restored, {
    operation: { id: 'op-r', kind: 'restore', state: 'running', done: 1, total: 2, waitsFor: null },
    undo: { name: 'undo' },
    plan: { regions: 2 },
  });
  group.stall = 'no space left';
  t.match(await client.operation('g', 'op-r'), { state: 'running', waitsFor: 'no space left' });
  t.match((await client.group('g')).operations, [{ id: 'op-r', waitsFor: 'no space left' }]);
  group.operations = [];
  t.match(await client.operation('g', 'op-r'), { state: 'done', done: 2, total: 2, waitsFor: null });
  await t.rejects(client.operation('g', 'op-x'), { code: 'not-found', status: 404 });
});

t.test('T4: who may write, or has it mounted, is named, and nothing happens', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const { client, served, devices } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  const asked = group.calls.length;
  const writer = await served.client({}, 'g/v');
  const refused = { code: 'in-use', message: /not restoring g@a: unix:.* may write g\/v; .*--force/ };
  await t.rejects(client.restore('g', 'a', {}), refused);
  await t.rejects(client.import('g', 'v', { file: '/i.img' }), {
    code: 'in-use',
    message: /not importing into g\/v/,
  });
  await client.restore('g', 'a', { volume: 'w' });
  t.equal(group.calls.length, asked + 1, 'the volume that nobody writes');
  await writer.disconnect();
  await until(() => served.server.sessions().length === 0);

  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v' });
  devices.users.set('/dev/nbd0', ['mounted on /mnt', 'held by dm-0']);
  await t.rejects(client.restore('g', 'a', {}), {
    code: 'in-use',
    message: /\/dev\/nbd0 of g\/v is mounted on \/mnt, held by dm-0; unmount/,
  });
  t.strictSame(devices.steps, []);
  t.equal(group.calls.length, asked + 1);
});

t.test(
  'T4: devices that nobody uses are flushed and held before, and their caches dropped after',
  async (t) => {
    const group = new FakeGroup('g', { v: MIB, w: MIB });
    const { client, devices, served } = await startFakeNode(t, group);
    await client.createSnapshot('g', { name: 'a' });
    await devices.attach({ ...plain, uri: localUri, device: '/dev/nbd0', exportName: 'g/v' });
    await devices.attach({ ...plain, uri: localUri, device: '/dev/nbd1', exportName: 'g/w@a' });
    await devices.attach({ ...plain, uri: localUri, device: '/dev/nbd2', exportName: 'h/v' });
    const restore = group.restore.bind(group);
    group.restore = async (...args) => {
      devices.steps.push('restore');
      t.throws(() => served.exports.holds.refuseWhileHeld('g/v'), {
        code: 'in-use',
        message: /while restoring g@a/,
      });
      return await restore(...args);
    };
    await client.restore('g', 'a', {});
    t.strictSame(devices.steps, ['hold /dev/nbd0', 'sync /dev/nbd1', 'restore', 'drop /dev/nbd0']);
    served.exports.holds.refuseWhileHeld('g/v');
    devices.steps.length = 0;
    await client.refreshSnapshot('g', 'a', false);
    t.strictSame(
      devices.steps,
      ['hold /dev/nbd1', 'drop /dev/nbd1'],
      'a snapshot that is refreshed is held too',
    );
    group.refusal = new EngineError('disk', 'no space', { errno: 'ENOSPC' });
    await t.rejects(client.restore('g', 'a', {}), { code: 'disk', status: 507 });
    t.equal(devices.steps.at(-1), 'drop /dev/nbd0', 'let go of when it fails');
  },
);

t.test('T4: --force ends sessions and devices, readers stay', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client, served, devices } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  const writer = await served.client({}, 'g/v');
  const ofSnapshot = await served.client({}, 'g/v@a');
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v' });
  devices.users.set('/dev/nbd0', ['mounted on /mnt']);
  await client.restore('g', 'a', { force: true });
  t.ok(await writer.closed, 'the client sees its connection end');
  t.strictSame(devices.list(), []);
  t.strictSame(devices.steps, ['detach /dev/nbd0']);
  t.ok((await ofSnapshot.readBuffer(0, 1)).equals(Buffer.alloc(1)), 'who is not concerned goes on');
  await ofSnapshot.disconnect();
});

t.test('T4: a mount that only the kernel knows of shows when the device is claimed', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client, devices } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v' });
  devices.hold = async (device) => {
    throw new EngineError('in-use', `${device} is in use: unmount it first, or use --force`);
  };
  await t.rejects(client.restore('g', 'a', {}), { code: 'in-use', message: /nbd0 is in use/ });
  await client.restore('g', 'a', { force: true });
  t.strictSame(devices.list(), []);
});

t.test('a snapshot that is used is not deleted or renamed beneath its users', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client, served, devices } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  const user = await served.client({}, 'g/v@a');
  await t.rejects(client.deleteSnapshot('g', 'a', false), { code: 'in-use', message: /may write g\/v@a/ });
  t.match(await client.renameSnapshot('g', 'a', 'b'), { name: 'b', volumes: [{ sessions: 1 }] });
  await t.rejects(
    client.deleteSnapshot('g', 'b', false),
    { code: 'in-use' },
    'by whatever name it was opened',
  );
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v@b' });
  await t.rejects(client.renameSnapshot('g', 'b', 'c'), {
    code: 'in-use',
    message: /attached to \/dev\/nbd0/,
  });
  await client.deleteSnapshot('g', 'b', true);
  t.ok(await user.closed);
  t.strictSame(devices.list(), []);
});

t.test('T4: nobody comes between the look and the change', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const { client, served } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  const opens = async (name: string): Promise<boolean> => {
    const session = await served.client({}, name);
    await session.disconnect();
    await until(() => served.server.sessions().length === 0);
    return true;
  };
  const refused = (what: string) => ({ code: 'refused', message: new RegExp(`while ${what}: try again`) });
  let during = async (): Promise<void> => {};
  const { restore, deleteSnapshot } = group;
  group.restore = async (...args) => {
    await during();
    return await restore.apply(group, args);
  };
  group.deleteSnapshot = async (name) => {
    await during();
    await deleteSnapshot.call(group, name);
  };

  during = async () => {
    await t.rejects(opens('g/v'), refused('restoring g@a'));
    const byName = await served.rawSocket();
    byName.resume();
    byName.write(exportNameHandshake('g/v'));
    await once(byName, 'close');
    t.strictSame(served.server.sessions(), []);
    t.ok(await opens('g/w'), 'a volume that is not restored');
    t.ok(await opens('g/v@a'), 'the snapshot that is restored from');
    served.exports.issueTicket('@device', 'g/v');
    t.ok(await opens('@device'), 'a kernel device of this node, which the guard has looked at');
    served.exports.revokeTicket('@device');
    group.role = 'secondary';
    t.ok(await opens('g/v'), 'who cannot write');
    group.role = 'primary';
  };
  await client.restore('g', 'a', { volume: 'v' });
  t.ok(await opens('g/v'), 'afterwards');

  group.refusal = new EngineError('disk', 'no space', { errno: 'ENOSPC' });
  await t.rejects(client.restore('g', 'a', { volume: 'v' }), { code: 'disk' });
  t.ok(await opens('g/v'), 'also when it fails');
  group.refusal = undefined;

  during = async () => {
    await t.rejects(opens('g/w@a'), refused('deleting g@a'));
  };
  await client.deleteSnapshot('g', 'a', false);
  await t.rejects(opens('g/w@a'), { code: 'refused', message: /no export/ });
});

t.test('T4: the undo snapshot that a restore replaces is guarded as if it were deleted', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const { client, served, devices } = await startFakeNode(t, group);
  for (const name of ['a', 'undo']) await client.createSnapshot('g', { name });
  const restores = () => group.calls.filter((call) => call.startsWith('restore'));
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/w@undo' });
  await t.rejects(client.restore('g', 'a', { volume: 'v' }), {
    code: 'in-use',
    message: /not restoring g@a, which replaces g@undo: \/dev\/nbd0 of g\/w@undo is attached;/,
  });
  await t.rejects(client.restore('g', 'undo', {}), { code: 'in-use' }, 'also by its own restore');
  await devices.detach('/dev/nbd0', { force: false });
  const user = await served.client({}, 'g/v@undo');
  await t.rejects(client.restore('g', 'a', {}), { code: 'in-use', message: /may write g\/v@undo/ });
  t.strictSame(restores(), []);

  await group.renameSnapshot('undo', 'kept');
  await client.restore('g', 'a', {});
  t.ok((await user.readBuffer(0, 1)).equals(Buffer.alloc(1)), 'one that has another name is not replaced');
  await group.renameSnapshot('kept', 'undo');
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/w@undo' });
  await client.restore('g', 'a', { force: true });
  t.ok(await user.closed);
  t.strictSame(devices.steps, ['detach /dev/nbd0']);
  t.equal(restores().length, 2);
});

t.test('what is being attached is not renamed, and not deleted with its group', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client, served, devices, guard } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  const { holds } = served.exports;
  const ends: (() => void)[] = [];
  const attach = (name: string) =>
    holds.whileAttaching(name, () => new Promise<void>((end) => ends.push(end)));
  const attaches = [attach('g/v@a'), attach('g/v@a')];
  const refused = { code: 'in-use', message: /g\/v@a is being attached to a device: try again/ };
  for (const end of ends) {
    await t.rejects(client.renameSnapshot('g', 'a', 'b'), refused);
    await t.rejects(client.deleteSnapshot('g', 'a', true), refused);
    t.throws(() => guard.refuseWhileUsed('group g', (name) => name.startsWith('g/')), refused);
    guard.refuseWhileUsed('group h', (name) => name.startsWith('h/'));
    end();
    await Promise.race(attaches.splice(0, 1));
  }
  guard.refuseWhileUsed('group g', (name) => name.startsWith('g/'));

  const rename = group.renameSnapshot.bind(group);
  group.renameSnapshot = async (name, to) => {
    await t.rejects(attach('g/v@a'), { code: 'in-use', message: /while renaming g@a/ });
    await t.rejects(client.deleteSnapshot('g', 'a', true), { code: 'in-use', message: /while renaming/ });
    const session = await served.client({}, 'g/v@a');
    await rename(name, to);
    t.match(served.server.sessions(), [{ exportName: 'g/v@b' }], 'sessions go along');
    await session.disconnect();
  };
  t.match(await client.renameSnapshot('g', 'a', 'b'), { name: 'b' });
  group.renameSnapshot = rename;
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v@b' });
  await t.rejects(client.renameSnapshot('g', 'b', 'c'), { code: 'in-use', message: /attached to/ });
  await devices.detach('/dev/nbd0', { force: false });
  t.match(await client.renameSnapshot('g', 'b', 'a'), { name: 'a' }, 'nothing is left held');
});

t.test('changes come in pages and add up', async (t) => {
  const group = new FakeGroup('g', { v: 10 * FAKE_REGION_BYTES + 100 });
  const { client } = await startFakeNode(t, group);
  for (const name of ['a', 'b']) await client.createSnapshot('g', { name });
  for (const region of [0, 1, 4, 10]) group.changed.add(region);
  t.strictSame(await client.changes('g', 'v', 'a', undefined, 0), {
    from: 'a',
    to: null,
    extents: [
      { offset: 0, length: 2 * FAKE_REGION_BYTES },
      { offset: 4 * FAKE_REGION_BYTES, length: FAKE_REGION_BYTES },
      { offset: 10 * FAKE_REGION_BYTES, length: 100 },
    ],
    next: null,
  });
  t.match(await client.changes('g', 'v', 'a', 'b', 5 * FAKE_REGION_BYTES), {
    to: 'b',
    extents: [{ offset: 10 * FAKE_REGION_BYTES }],
  });
  t.match(group.calls.at(-1), /^changedRuns v a b 5 11$/);
  await t.rejects(client.changes('g', 'v', 'b', 'a', 0), {
    code: 'invalid',
    message: /older snapshot first/,
  });
  await t.rejects(client.changes('g', 'x', 'a', undefined, 0), { code: 'not-found' });
  await t.rejects(client.changes('g', 'v', 'a', 'x', 0), { code: 'not-found', message: /no snapshot x/ });
});

t.test('an import is an operation with a result, and holds its volume while it runs', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client, devices, served, openImages } = await startFakeNode(t, group);
  await devices.attach({ ...plain, uri: localUri, exportName: 'g/v' });
  let end: () => void = () => undefined;
  group.importing = new Promise<void>((resolve) => {
    end = resolve;
  });
  const begun = await client.import('g', 'v', { file: '/image' });
  t.match(begun, { kind: 'import', target: 'g/v', state: 'running', result: null });
  t.strictSame(
    (await client.group('g')).operations.map(({ id }) => id),
    [begun.id],
    'told of once',
  );
  await t.rejects(client.import('g', 'v', { file: '/image' }), { code: 'in-use', message: /under way/ });
  t.strictSame(devices.steps, ['hold /dev/nbd0']);
  end();
  await until(() => openImages.size === 0 && devices.steps.length === 2);
  t.match(await client.operation('g', begun.id), {
    state: 'done',
    done: 4,
    result: { regionsCompared: 4, regionsWritten: 1, bytesWritten: FAKE_REGION_BYTES },
  });
  t.strictSame(
    served.events.since(0).map(({ type }) => type),
    ['import.started', 'import.completed'],
  );

  group.refusal = new EngineError('invalid', 'the image is larger than volume v');
  await t.rejects(client.import('g', 'v', { file: '/big' }), { code: 'invalid', message: /larger/ });
  t.equal(openImages.size, 0);
  await t.rejects(client.import('g', 'v', { file: '/none' }), { code: 'not-found' });
  group.refusal = undefined;
  group.importing = Promise.reject(new EngineError('disk', 'the image cannot be read', { errno: 'EIO' }));
  group.importing.catch(() => undefined);
  await t.rejects(client.import('g', 'v', { file: '/bad' }), { code: 'disk' });
});

t.test('what is wrong is refused in one line', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const { client } = await startFakeNode(t, group);
  await client.createSnapshot('g', { name: 'a' });
  await t.rejects(client.createSnapshot('none', { name: 'a' }), {
    code: 'not-found',
    message: /no group "none"/,
  });
  await t.rejects(client.deleteSnapshot('g', 'b', false), { code: 'not-found', message: /no snapshot b/ });
  await t.rejects(client.deleteSnapshot('g', 'b/c', false), {
    code: 'invalid',
    message: /cannot name a snapshot/,
  });
  await t.rejects(client.restore('g', 'b', {}), { code: 'not-found' });
  await t.rejects(client.restore('g', 'a', { volume: 'x' }), { code: 'not-found', message: /no volume "x"/ });
  await t.rejects(client.planRestore('g', 'a', 'x'), { code: 'not-found' });
  await t.rejects(client.import('g', 'x', { file: '/i' }), { code: 'not-found' });
  t.strictSame(group.calls, ['createSnapshot a']);
});
