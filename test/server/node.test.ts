import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import type { DiskFolder } from '../../engine/disk/disk.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { EngineError, errnoOf } from '../../engine/errors.ts';
import { EventLog } from '../../server/events.ts';
import { NbdClient } from '../../server/nbd-client.ts';
import { TidemarkNode } from '../../server/node.ts';
import { listing, nodeOptions, startLocal, temporaryFolder } from '../fixtures/local-node.ts';

const MIB = 1024 * 1024;
const run = promisify(execFile);

const uriOf = (folder: string, name: string): string =>
  `nbd+unix:///${name}?socket=${join(folder, 'nbd.sock')}`;

t.test('a group is created, served, kept over a restart, and deleted', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder);
  const created = await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: 10 * MIB }] });
  t.match(created, {
    name: 'g',
    state: 'open',
    role: 'primary',
    mode: 'direct',
    log: { used: 0 },
    snapshots: [],
    volumes: [{ export: 'g/v', writtenRegions: 0, totalRegions: 160 }],
  });

  const client = await NbdClient.connect(uriOf(folder, 'g/v'));
  await client.write(Buffer.alloc(4096, 7), 64 * 1024);
  t.match(node.groupStatus('g').volumes[0], { writtenRegions: 1, sessions: 1 });
  await client.disconnect();
  t.same(await node.stop(), []);
  t.same((await readdir(folder)).sort(), ['groups', 'lock', 'node.json'], 'no socket is left');

  const { node: again } = await startLocal(t, folder);
  t.equal(again.id, node.id);
  t.match(again.groupStatus('g').volumes[0], { writtenRegions: 1, size: 10 * MIB });
  const reader = await NbdClient.connect(uriOf(folder, 'g/v'));
  const data = Buffer.alloc(4096);
  await reader.read(data, 64 * 1024);
  t.same(data, Buffer.alloc(4096, 7));
  await t.rejects(again.deleteGroup('g'), {
    code: 'in-use',
    message: /group g is in use by unix:.* on g\/v/,
  });
  await reader.disconnect();
  while (again.status().sessions.length > 0) await new Promise((resolve) => setImmediate(resolve));
  await again.deleteGroup('g');
  t.same(await readdir(join(folder, 'groups')), []);
  t.throws(() => again.groupStatus('g'), { code: 'not-found' });
  t.same(
    again.events
      .since(0)
      .map((event) => event.type)
      .filter((type) => type.startsWith('group.') || type.startsWith('node.')),
    ['node.started', 'group.deleted'],
  );
});

t.test('deleting leaves a file that was named at create where it is', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, join(folder, 'state'));
  const file = join(folder, 'data.img');
  await writeFile(file, Buffer.alloc(MIB, 3));
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', file }] });
  await node.deleteGroup('g');
  t.same(await readFile(file), Buffer.alloc(MIB, 3));
});

t.test('what cannot be created leaves nothing behind', async (t) => {
  const folder = await temporaryFolder(t);
  const file = join(folder, 'taken.img');
  const small = join(folder, 'small.img');
  await writeFile(file, Buffer.alloc(MIB));
  await writeFile(small, Buffer.alloc(MIB));
  const { node } = await startLocal(t, join(folder, 'state'));
  await node.createGroup({
    name: 'g',
    volumes: [
      { name: 'v', size: MIB },
      { name: 'w', file },
    ],
  });
  const before = await listing(folder);
  const cases: [string, Parameters<TidemarkNode['createGroup']>[0], string][] = [
    ['a group that is there', { name: 'g', volumes: [{ name: 'v', size: MIB }] }, 'exists'],
    ['a name with a slash', { name: 'g/x', volumes: [{ name: 'v', size: MIB }] }, 'invalid'],
    ['a name of ours', { name: '.deleted-1', volumes: [{ name: 'v', size: MIB }] }, 'invalid'],
    ['a path as a name', { name: '..', volumes: [{ name: 'v', size: MIB }] }, 'invalid'],
    [
      'two volumes of a name',
      {
        name: 'h',
        volumes: [
          { name: 'v', size: MIB },
          { name: 'v', size: MIB },
        ],
      },
      'invalid',
    ],
    ['a wrong volume name', { name: 'h', volumes: [{ name: 'v@1', size: MIB }] }, 'invalid'],
    ['a size that is no multiple of 512', { name: 'h', volumes: [{ name: 'v', size: 1000 }] }, 'invalid'],
    ['a size beyond all bounds', { name: 'h', volumes: [{ name: 'v', size: 2 ** 53 - 512 }] }, 'invalid'],
    [
      'a region size that is no power of two',
      { name: 'h', regionSize: 65_537, volumes: [{ name: 'v', size: MIB }] },
      'invalid',
    ],
    [
      'a file that is not there, without a size',
      { name: 'h', volumes: [{ name: 'v', file: join(folder, 'none') }] },
      'not-found',
    ],
    [
      'a file in a folder that is not there',
      { name: 'h', volumes: [{ name: 'v', size: MIB, file: join(folder, 'no/ne') }] },
      'not-found',
    ],
    ['a folder as a file', { name: 'h', volumes: [{ name: 'v', file: folder }] }, 'invalid'],
    [
      'a file smaller than asked',
      { name: 'h', volumes: [{ name: 'v', size: 2 * MIB, file: small }] },
      'invalid',
    ],
    ['a file that another group has', { name: 'h', volumes: [{ name: 'v', file }] }, 'in-use'],
    [
      'a good volume before a bad one',
      {
        name: 'h',
        volumes: [
          { name: 'a', size: MIB },
          { name: 'b', file: folder },
        ],
      },
      'invalid',
    ],
  ];
  for (const [what, request, code] of cases) {
    const error = await node.createGroup(request).then(
      () => undefined,
      (refusal: unknown) => refusal,
    );
    t.match(error, { name: 'EngineError', code }, what);
    t.notMatch((error as Error).message, /\n/, `${what}: one line`);
    t.same(await listing(folder), before, `${what}: nothing changed`);
  }
  t.same(
    node.status().groups.map((group) => group.name),
    ['g'],
  );
});

/** A folder on a full filesystem: a tmpfs where we may mount one, else disks that say so. */
async function fullDisk(
  t: Tap,
  folder: string,
): Promise<{ state: string; fill: () => Promise<void>; openFolder: (path: string) => Promise<DiskFolder> }> {
  const state = join(folder, 'full');
  await mkdir(state);
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tidemark-test', state]);
    t.teardown(() => run('umount', ['-l', state]));
    const fill = async () => {
      const filler = join(state, 'filler');
      const error = await writeFile(filler, Buffer.alloc(16 * MIB)).catch((reason: unknown) => reason);
      if (errnoOf(error) !== 'ENOSPC') throw new Error('the filesystem did not fill up');
    };
    return { state, fill, openFolder: (path) => FileFolder.open(path) };
  } catch {
    let full = false;
    const openFolder = async (path: string): Promise<DiskFolder> => {
      const real = await FileFolder.open(path);
      const create = real.create.bind(real);
      real.create = async (name, sizeBytes) => {
        if (full) throw new EngineError('disk', `cannot create ${name}: ENOSPC`, { errno: 'ENOSPC' });
        return create(name, sizeBytes);
      };
      return real;
    };
    return {
      state,
      fill: async () => {
        full = true;
      },
      openFolder,
    };
  }
}
interface Tap {
  teardown(run: () => unknown): void;
}

t.test('a full disk refuses a group, and the others go on', async (t) => {
  const { state, fill, openFolder } = await fullDisk(t, await temporaryFolder(t));
  const { node } = await startLocal(t, state, { openFolder });
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  await fill();
  const before = await listing(state);
  await t.rejects(node.createGroup({ name: 'h', volumes: [{ name: 'v', size: MIB }] }), {
    code: 'disk',
    errno: 'ENOSPC',
  });
  t.same(await listing(state), before, 'nothing changed');
  const client = await NbdClient.connect(uriOf(state, 'g/v'));
  await client.read(Buffer.alloc(512), 0);
  await client.disconnect();
  await node.stop();
});

t.test('a node starts again on a full disk, so that its volumes can be trimmed', async (t) => {
  const { state, fill, openFolder } = await fullDisk(t, await temporaryFolder(t));
  const first = await startLocal(t, state, { openFolder });
  await first.node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  const writer = await NbdClient.connect(uriOf(state, 'g/v'));
  await writer.write(Buffer.alloc(65_536, 1), 0);
  await writer.flush();
  await writer.disconnect();
  await first.node.stop();
  await fill();
  const { node } = await startLocal(t, state, { openFolder });
  t.match(node.status().groups, [{ name: 'g', state: 'open' }]);
  const client = await NbdClient.connect(uriOf(state, 'g/v'));
  await client.trim(0, 65_536);
  await client.flush();
  t.same(await client.readBuffer(0, 512), Buffer.alloc(512));
  await client.disconnect();
  await node.stop();
});

t.test('a group that cannot be opened is listed with the reason, others are served', async (t) => {
  const folder = await temporaryFolder(t);
  const file = join(await temporaryFolder(t), 'outside.img');
  await writeFile(file, Buffer.alloc(MIB));
  const first = await startLocal(t, folder);
  await first.node.createGroup({ name: 'good', volumes: [{ name: 'v', size: MIB }] });
  await first.node.createGroup({ name: 'gone', volumes: [{ name: 'v', file }] });
  await first.node.createGroup({ name: 'moved', volumes: [{ name: 'v', size: MIB }] });
  await first.node.createGroup({ name: 'torn', volumes: [{ name: 'v', size: MIB }] });
  await first.node.stop();
  const groups = join(folder, 'groups');
  await rename(file, `${file}.away`);
  await rename(join(groups, 'moved'), join(groups, 'renamed'));
  const records = (await readdir(join(groups, 'torn'))).filter(
    (name) => name !== 'volumes' && name !== 'maps',
  );
  for (const name of records) await writeFile(join(groups, 'torn', name), 'x'.repeat(9000));
  await mkdir(join(groups, 'unfinished'));
  await mkdir(join(groups, '.deleted-0', 'volumes'), { recursive: true });
  await writeFile(join(groups, 'not a group'), '');

  const { node } = await startLocal(t, folder);
  t.match(
    node.status().groups.map(({ name, state, reason }) => ({ name, state, reason })),
    [
      { name: 'gone', state: 'failed', reason: /outside\.img/ },
      { name: 'good', state: 'open', reason: null },
      { name: 'renamed', state: 'failed', reason: /it is group moved/ },
      { name: 'torn', state: 'failed', reason: String },
    ],
  );
  t.notOk(existsSync(join(groups, '.deleted-0')), 'a deletion that was cut short is finished');
  t.notOk(existsSync(join(groups, 'unfinished')), 'a creation that was cut short is cleared away');
  t.ok(existsSync(join(groups, 'not a group')), 'what is not ours is left alone');
  t.equal(node.events.since(0).filter((event) => event.type === 'group.failed').length, 3);
  const client = await NbdClient.connect(uriOf(folder, 'good/v'));
  await client.disconnect();
  await t.rejects(node.createGroup({ name: 'gone', volumes: [{ name: 'v', size: MIB }] }), {
    code: 'exists',
  });
  await t.rejects(node.attach({ export: 'gone/v' }), { code: 'unavailable', message: /could not be opened/ });
  await node.deleteGroup('torn');
  t.notOk(existsSync(join(groups, 'torn')), 'a failed group can be deleted');
  await node.stop();

  await rename(`${file}.away`, file);
  const { node: healed } = await startLocal(t, folder);
  t.equal(healed.groupStatus('gone').state, 'open', 'and comes back with its file');
});

t.test('a second node on the same state is refused, and harms nothing', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder);
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  const before = await listing(folder);
  await t.rejects(TidemarkNode.start(await nodeOptions(folder)), {
    code: 'in-use',
    message: /served by pid/,
  });
  t.same(await listing(folder), before);
  const client = await NbdClient.connect(uriOf(folder, 'g/v'));
  await client.disconnect();
});

t.test('a start that fails half-way lets go of everything', async (t) => {
  const folder = await temporaryFolder(t);
  const first = await startLocal(t, folder);
  await first.node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  await first.node.stop();
  await writeFile(join(folder, 'control.sock'), 'not a socket');
  const before = await listing(folder);
  await t.rejects(TidemarkNode.start(await nodeOptions(folder)), {
    code: 'exists',
    message: /is not a socket/,
  });
  t.same(await listing(folder), before, 'the NBD socket that was bound already is gone');
  await rm(join(folder, 'control.sock'));
  const { node } = await startLocal(t, folder);
  t.equal(node.groupStatus('g').state, 'open', 'the group was closed and unlocked');
});

t.test('another machine’s state is refused before anything is made', async (t) => {
  const folder = await temporaryFolder(t);
  const first = await startLocal(t, folder);
  await first.node.stop();
  await rm(join(folder, 'lock'));
  const before = await listing(folder);
  const options = await nodeOptions(folder);
  await t.rejects(TidemarkNode.start({ ...options, machine: 'b'.repeat(64) }), {
    code: 'in-use',
    message: /--adopt/,
  });
  t.same(await listing(folder), before);
  const { node } = await startLocal(t, folder, { machine: 'b'.repeat(64), adopt: true });
  t.not(node.id, first.node.id);
  t.equal(node.events.since(0)[0]?.type, 'node.adopted');
});

t.test('devices: what is asked for reaches them, and they keep a group from deletion', async (t) => {
  const folder = await temporaryFolder(t);
  let guarded = 0;
  const { node, devices } = await startLocal(t, folder, {
    guard: () => {
      guarded += 1;
    },
  });
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  for (const name of ['g', 'g/', 'g/none', 'g/v/w', 'none/v', '']) {
    await t.rejects(node.attach({ export: name }), { code: 'not-found' }, JSON.stringify(name));
  }
  t.equal(guarded, 0);
  await node.attach({
    export: 'g/v',
    connections: 4,
    readOnly: true,
    timeoutSeconds: 9,
    device: '/dev/nbd9',
  });
  t.equal(guarded, 1);
  t.match(devices.requests, [
    {
      exportName: 'g/v',
      device: '/dev/nbd9',
      connections: 4,
      readOnly: true,
      timeoutSeconds: 9,
      uri: { address: { path: join(folder, 'nbd.sock') } },
    },
  ]);
  t.same(node.groupStatus('g').volumes[0]?.devices, ['/dev/nbd9']);
  await t.rejects(node.deleteGroup('g'), {
    code: 'in-use',
    message: /attached to \/dev\/nbd9: detach first/,
  });
  await t.rejects(node.detach('/dev/nbd9', false), { code: 'in-use' });
  await node.detach('/dev/nbd9', true);
  await node.deleteGroup('g');
  await node.stop();
  t.ok(devices.released, 'released when the node stops');
});

t.test('a listener that others can reach is named in a warning; one on loopback is not', async (t) => {
  const folder = await temporaryFolder(t);
  const events = new EventLog();
  const { node } = await startLocal(
    t,
    folder,
    { events },
    { listen: ['nbd://127.0.0.1:0', 'nbd://0.0.0.0:0'] },
  );
  const warnings = events.since(0).filter((event) => event.type === 'listener.exposed');
  t.equal(warnings.length, 1);
  t.match(warnings[0]?.message, /0\.0\.0\.0.*no authentication/);
  t.equal(node.status().node.listen.length, 2);
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  t.match(node.groupStatus('g').volumes[0]?.uri, /^nbd:\/\/127\.0\.0\.1:\d+\/g\/v$/);
  const taken = node.listeners[0];
  if (taken?.address.kind !== 'tcp') throw new Error('not TCP');
  const other = await nodeOptions(await temporaryFolder(t), {
    listen: [`nbd://127.0.0.1:${taken.address.port}`],
  });
  await t.rejects(TidemarkNode.start(other), {
    code: 'disk',
    message: /cannot listen at nbd:.*another process listens there/,
  });
});

t.test('a stopping node takes no more changes, and stopping twice is one stop', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder);
  const stops = [node.stop(), node.stop()];
  await t.rejects(node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] }), {
    code: 'unavailable',
  });
  await t.rejects(node.deleteGroup('g'), { code: 'unavailable' });
  await t.rejects(node.attach({ export: 'g/v' }), { code: 'unavailable' });
  t.same(await Promise.all(stops), [[], []]);
  t.ok((await stat(join(folder, 'node.json'))).isFile());
});
