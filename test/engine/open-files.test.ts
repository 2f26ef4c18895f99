/** Files that a group has open: all that it needs, no more with time, and none when it is closed. */
import t from 'tap';
import { GroupBench } from '../fixtures/group-bench.ts';

/** Two volumes of two regions, and a detached snapshot `s` of what they had first. */
async function detached(): Promise<GroupBench> {
  const bench = await GroupBench.make({ regions: 2, volumes: ['v', 'w'] });
  await bench.group.createSnapshot('s');
  await bench.group.detachSnapshot('s');
  await bench.group.settled();
  return bench;
}

t.test(
  'refreshing a detached snapshot again and again leaves nothing open, and no file behind',
  async (t) => {
    const bench = await detached();
    await bench.write(0, 1);
    await bench.group.refreshSnapshot('s');
    await bench.group.settled();
    const [open, files] = [bench.folder.openNames.length, bench.folder.media.size];
    for (let fill = 2; fill < 12; fill++) {
      await bench.write(fill % 2, fill);
      await bench.group.refreshSnapshot('s');
      await bench.group.settled();
    }
    t.equal(bench.group.snapshots[0]?.state, 'detached');
    t.same([bench.folder.openNames.length, bench.folder.media.size], [open, files]);
    await bench.group.close();
    t.same(bench.folder.openNames, []);
  },
);

t.test('detaching and deleting again and again leaves nothing open', async (t) => {
  const bench = await detached();
  const [open, files] = [bench.folder.openNames.length, bench.folder.media.size];
  for (let fill = 1; fill < 10; fill++) {
    await bench.group.createSnapshot('other');
    await bench.write(fill % 2, fill);
    await bench.group.detachSnapshot('other');
    await bench.group.settled();
    await bench.group.deleteSnapshot('other');
    await bench.group.settled();
  }
  t.same([bench.folder.openNames.length, bench.folder.media.size], [open, files]);
  await bench.group.close();
  t.same(bench.folder.openNames, []);
});

t.test('restoring again and again leaves nothing open, and no file behind', async (t) => {
  const bench = await detached();
  await bench.group.createSnapshot('a');
  const round = async (fill: number) => {
    await bench.write(fill % 2, fill);
    await bench.group.restore(fill % 2 === 0 ? 'a' : 's');
    await bench.group.settled();
  };
  await round(1);
  await round(2);
  const [open, files] = [bench.folder.openNames.length, bench.folder.media.size];
  for (let fill = 3; fill < 13; fill++) await round(fill);
  t.same([bench.folder.openNames.length, bench.folder.media.size], [open, files]);
  await bench.group.close();
  t.same(bench.folder.openNames, []);
});

t.test('closed while a snapshot is refreshed: nothing stays open', async (t) => {
  const bench = await detached();
  await bench.write(0, 1);
  await bench.group.settled();
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('.copied') ? 'EIO' : undefined));
  await bench.group.refreshSnapshot('s');
  await bench.pass(100);
  t.equal(bench.group.snapshots[0]?.state, 'refreshing');
  await bench.group.close();
  t.same(bench.folder.openNames, []);
  bench.folder.faults.decide = undefined;
  await bench.open();
  await bench.group.settled();
  t.same(await bench.fills(bench.snapshot('s')), [1, 0]);
  await bench.group.close();
  t.same(bench.folder.openNames, []);
});

/** The names of what is open; throws where one is open twice, or gone. */
function open(bench: GroupBench): string[] {
  const names = bench.folder.openNames;
  for (const name of names) {
    if (names.indexOf(name) !== names.lastIndexOf(name)) throw new Error(`${name} is open twice`);
    if (!bench.folder.media.has(name)) throw new Error(`${name} is open, and was removed`);
  }
  return names;
}

t.test('deleted while it is being detached: nothing of it stays open', async (t) => {
  const bench = await detached();
  await bench.group.createSnapshot('other');
  await bench.write(0, 1);
  await bench.write(0, 1, 1, bench.volume('w'));
  await bench.group.settled();
  const before = open(bench);
  const { id } = bench.group.snapshots.at(-1) ?? { id: '' };
  bench.watch((operation, name) => (operation === 'sync' && name.endsWith('w.copied') ? 'EIO' : undefined));
  await bench.group.detachSnapshot('other');
  await bench.pass(100);
  await bench.group.deleteSnapshot('other');
  bench.folder.faults.decide = undefined;
  await bench.pass(2000);
  await bench.group.settled();
  t.same(
    open(bench),
    before.filter((name) => !name.endsWith('.preserved')),
  );
  t.same(
    [...bench.folder.media.keys()].filter((name) => name.includes(id)),
    [],
    'and nothing is left of it',
  );
  await bench.group.close();
  t.same(open(bench), []);
});

for (const [label, file] of [
  ['made', /w\.changed-/],
  ['recorded', /group\.record/],
] as const)
  for (const what of ['detach', 'refresh'] as const)
    t.test(`${what}: what cannot be ${label} is tried again, and no try leaves anything open`, async (t) => {
      const bench = await detached();
      if (what === 'detach') await bench.group.createSnapshot('other');
      await bench.write(0, 1);
      await bench.group.settled();
      let isAtMaps = false;
      let failures = 0;
      bench.watch((operation, name) => {
        if (operation === 'create' && /v\.changed-/.test(name)) isAtMaps = true;
        const fails = isAtMaps && failures < 5 && (operation === 'create' || operation === 'sync');
        if (!fails || !file.test(name)) return undefined;
        failures++;
        isAtMaps = false;
        return 'EIO';
      });
      if (what === 'detach') await bench.group.detachSnapshot('other');
      else await bench.group.refreshSnapshot('s');
      await bench.pass(10_000);
      await bench.group.settled();
      t.equal(failures, 5);
      const states = bench.group.snapshots.map(({ state }) => state);
      t.same(new Set(states), new Set(['detached']));
      t.ok(open(bench).length > 0);
      await bench.group.close();
      t.same(bench.folder.openNames, []);
    });
