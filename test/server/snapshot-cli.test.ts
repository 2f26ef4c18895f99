/** The commands for snapshots, restores, differences and imports, as typed. */
import { resolve } from 'node:path';
import t, { type Test } from 'tap';
import { type Ended, tidemark as runTidemark } from '../fixtures/command-line.ts';
import { FAKE_REGION_BYTES, FakeGroup } from '../fixtures/fake-group.ts';
import { startFakeNode } from '../fixtures/fake-node.ts';

const MIB = 1 << 20;

async function start(t: Test) {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const node = await startFakeNode(t, group);
  const tidemark = (...args: string[]): Promise<Ended> => runTidemark(...args, '--state', node.folder);
  const says = async (command: string, expected: string | RegExp): Promise<void> => {
    const ended = await tidemark(...command.split(' '));
    t.equal(ended.complaint, '', command);
    if (typeof expected === 'string') t.equal(ended.out, expected, command);
    else t.match(ended.out, expected, command);
    t.equal(ended.status, 0, command);
  };
  return { group, node, tidemark, says };
}

t.test('snapshots', async (t) => {
  const { group, tidemark, says } = await start(t);
  await says('snapshot list g', 'g has no snapshots\n');
  await says('snapshot create g@a', 'created g@a\n');
  await says('snapshot create g@b --local', 'created g@b\n');
  t.equal(group.snapshots[1]?.local, true);
  await says('snapshot rename g@a monday', 'renamed g@a to g@monday\n');
  await says('snapshot list g', /^SNAPSHOT .*\ng@monday +1 .* 2 +0 +attached\ng@b +2 .* attached, local\n$/);
  const listed = JSON.parse((await tidemark('snapshot', 'list', 'g', '--json')).out);
  t.match(listed, {
    snapshots: [{ name: 'monday', volumes: [{ name: 'v' }, { name: 'w' }] }, { name: 'b' }],
  });
  await says('snapshot refresh g@b', 'refreshed g@b\n');
  await says('snapshot refresh g@b --force', 'refreshed g@b\n');
  t.match(group.calls.slice(-2), ['refreshSnapshot b false', 'refreshSnapshot b true']);
  await says('snapshot detach g@b', 'detaching g@b in the background, operation id-2\n');
  await says('status g', /group g: detach b: 0\/4 regions\nSNAPSHOT/);
  await says('snapshot delete g@b', 'deleted g@b\n');
  group.operations = [];
  setTimeout(() => {
    group.operations = [];
    group.snapshots = group.snapshots.map((each) => ({ ...each, state: 'detached' }));
  }, 20);
  await says('snapshot detach g@monday --wait', 'detached g@monday\n');
});

t.test('restores', async (t) => {
  const { group, tidemark, says } = await start(t);
  await says('snapshot create g@a', 'created g@a\n');
  const plan =
    'restoring g@a would copy:\nVOLUME  REGIONS  BYTES\ng/v           2  8 KiB\ng/w           2  8 KiB\ntotal         4  16 KiB\n';
  t.equal((await tidemark('restore', 'g@a', '--plan')).out.replace(/ +/g, ' '), plan.replace(/ +/g, ' '));
  const json = JSON.parse((await tidemark('restore', 'g@a', '--plan', '--json', '--volume', 'w')).out);
  t.match(json, { snapshot: 'a', regions: 2, volumes: [{ name: 'w' }] });
  t.notOk(group.calls.some((call) => call.startsWith('restore')));
  await says(
    'restore g@a --volume w',
    'restored g/w from g@a; to undo it: tidemark restore g@undo\ncopying 2 regions, 8 KiB in the background, operation op-r\n',
  );
  group.operations = [];
  group.stall = 'no space left';
  setTimeout(() => {
    group.operations = [];
  }, 20);
  await says(
    'restore g@a --wait',
    'restored g from g@a; to undo it: tidemark restore g@undo\nrestore a: 1/4 regions, waits: no space left\ncopied 4 regions, 16 KiB\n',
  );
  await says(
    'status g',
    /group g IS HELD UP: no space left\ngroup g logs: 4 KiB of 1 MiB used, 512 B pending; LSN end 24/,
  );
});

t.test('differences', async (t) => {
  const { group, tidemark, says } = await start(t);
  await says('snapshot create g@a', 'created g@a\n');
  await says('snapshot create g@b', 'created g@b\n');
  await says('diff g/v@a', '0 extents, 0 bytes (0 B)\n');
  for (const region of [0, 1, 7]) group.changed.add(region);
  const region = FAKE_REGION_BYTES;
  await says(
    'diff g/v@a',
    `OFFSET LENGTH\n0 ${2 * region}\n${7 * region} ${region}\n2 extents, ${3 * region} bytes (12 KiB)\n`,
  );
  t.same(JSON.parse((await tidemark('diff', 'g/v@a', '@b', '--json')).out), {
    export: 'g/v',
    from: 'a',
    to: 'b',
    extents: [
      { offset: 0, length: 2 * region },
      { offset: 7 * region, length: region },
    ],
    bytes: 3 * region,
  });
  t.match(group.calls.at(-1), /^changedRuns v a b /);
});

t.test('imports', async (t) => {
  const { group, tidemark, says } = await start(t);
  await says(
    'import g/v x.img',
    `imported ${resolve('x.img')} into g/v: 1 of 4 regions differed, 4 KiB written\n`,
  );
  group.importing = new Promise((_resolve, reject) => {
    setTimeout(() => reject(new Error('the image cannot be read')), 50);
  });
  group.importing.catch(() => undefined);
  t.match(await tidemark('import', 'g/v', 'y.img'), { status: 1, complaint: /^tidemark: an internal error/ });
});

t.test('what is wrong gets one line and the right status', async (t) => {
  const { group, node, tidemark, says } = await start(t);
  await says('snapshot create g@a', 'created g@a\n');
  const writer = await node.served.client({}, 'g/v');
  const before = group.calls.length;
  const cases: [string, number, RegExp][] = [
    ['snapshot create g', 2, /write GROUP@NAME/],
    ['snapshot create g@a@b', 2, /write GROUP@NAME/],
    ['snapshot create g@', 2, /cannot name a snapshot/],
    ['snapshot create g/v@a', 2, /cannot name a group/],
    ['snapshot rename g@a b/c', 2, /cannot name a snapshot/],
    ['snapshot what g@a', 2, /unknown command/],
    ['diff g/v', 2, /write GROUP\/VOLUME@SNAPSHOT/],
    ['diff g/v@a b', 2, /write @SNAPSHOT/],
    ['restore g@a --json', 2, /--json goes with --plan/],
    ['restore g', 2, /write GROUP@NAME/],
    ['import g/v@a x', 2, /write GROUP\/VOLUME/],
    ['import g/v', 2, /missing required argument/],
    ['attach g/v@', 2, /cannot name a snapshot/],
    ['snapshot list none', 1, /there is no group "none"/],
    ['snapshot delete g@b', 1, /no snapshot b/],
    ['diff g/v@b', 1, /no snapshot b/],
    ['diff g/v@b --json', 1, /no snapshot b/],
    [
      'restore g@a',
      1,
      /not restoring g@a: unix:.* may write g\/v; unmount, detach and disconnect first, or use --force/,
    ],
    ['import g/w /none', 1, /does not exist/],
  ];
  for (const [command, status, message] of cases) {
    const ended = await tidemark(...command.split(' '));
    t.equal(ended.status, status, command);
    t.match(ended.complaint, message, command);
    t.match(ended.complaint, /^tidemark: [^\n]+\n$/, `${command}: one line`);
    t.equal(ended.out, '', `${command}: nothing on standard output`);
  }
  t.equal(group.calls.length, before, 'nothing was asked of the group');
  await writer.disconnect();
});
