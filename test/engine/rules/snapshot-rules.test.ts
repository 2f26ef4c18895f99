/** The rules S1 to S8 of the design, each by its name, on the engine as a whole. */
import t from 'tap';
import { GroupBench, inOrder, REGION, times } from '../../fixtures/group-bench.ts';

/** A group whose regions are filled with 1, 2, … and a snapshot of that. */
async function numbered(options: Parameters<typeof GroupBench.make>[0] = {}): Promise<GroupBench> {
  const bench = await GroupBench.make(options);
  for (let region = 0; region < bench.regions; region++) await bench.write(region, region + 1);
  await bench.group.createSnapshot('s');
  await bench.group.settled();
  return bench;
}

const before = [1, 2, 3, 4, 5, 6, 7, 8];

t.test('S1: copies are synced, then bits, then it is overwritten', async (t) => {
  const bench = await numbered();
  await bench.write(5, 9);
  await bench.group.settled();
  const trace = bench.watch();
  await bench.write(0, 9, 2);
  await bench.group.settled();
  const own = trace.filter((entry) => /v\.preserved|v\.img/.test(entry));
  const copied = ['write s/v.preserved', 'write s/v.preserved', 'sync s/v.preserved'];
  t.same(own.slice(0, 6), [...copied, 'write s/v.preserved', 'sync s/v.preserved', 'write v.img']);
});

t.test('S1: so any crash leaves the snapshot as it was', async (t) => {
  for (let cut = 1; cut < 40; cut++) {
    const bench = await numbered({ seed: cut });
    bench.cutAt(cut);
    const work = async () => {
      await bench.write(0, 9, 4);
      await bench.group.settled();
      await bench.write(3, 9, 4);
      await bench.group.settled();
    };
    await Promise.race([work().catch(() => {}), bench.turns(3000)]);
    await bench.crash();
    t.same(await bench.fills(bench.snapshot('s')), before, `cut ${cut}`);
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), before, `cut ${cut}, settled`);
  }
});

t.test('S1: a bit is set for readers when it is durable', async (t) => {
  for (let seed = 1; seed <= 6; seed++) {
    const bench = await numbered({ seed });
    await bench.write(5, 9);
    await bench.group.settled();
    await bench.group.createSnapshot('later');
    let syncs = 0;
    bench.folder.faults.lostOnFailedSync = true;
    bench.watch((operation, name) =>
      operation === 'sync' && name.endsWith('.preserved') && ++syncs === 3 ? 'EIO' : undefined,
    );
    await bench.write(0, 9, 2);
    await bench.pass(60);
    t.ok(bench.group.stall, 'the store was made, its copies synced, its map was not');
    t.same(await bench.fills(bench.snapshot('s')), before);
    t.same(bench.rawFills().slice(0, 2), [1, 2], 'and nothing is overwritten');
    await bench.pass(1100);
    await bench.group.settled();
    t.same((await bench.fills()).slice(0, 2), [9, 9]);
    await bench.crash();
    t.same(await bench.fills(bench.snapshot('s')), before, `seed ${seed}`);
  }
});

t.test('S2: a reader that fell through to the volume looks again afterwards', async (t) => {
  const bench = await numbered();
  const release = bench.folder.hold('read', 'v.img', 1);
  const reading = bench.read(bench.snapshot('s'), 0, 2 * REGION);
  await bench.turns();
  await bench.write(0, 9, 2);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, 2), [9, 9], 'overwritten while it waits');
  release();
  t.same(await reading, Buffer.concat([Buffer.alloc(REGION, 1), Buffer.alloc(REGION, 2)]));
});

t.test('S2: extents are asked for again, too', async (t) => {
  const bench = await GroupBench.logged();
  const release = bench.folder.hold('extents', 'v.img', 1);
  const asking = bench.snapshot('s').allocation(0, 2 * REGION, 10);
  await bench.turns();
  await bench.write(0, 9, 2);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, 2), [9, 9], 'overwritten while it waits');
  release();
  t.same(await asking, [{ lengthBytes: 2 * REGION, hole: true, zero: true }]);
});

t.test('S3: a write to a snapshot copies the rest of the region up, and is nobody else’s', async (t) => {
  const bench = await numbered();
  await bench.write(1, 9);
  await bench.group.createSnapshot('later');
  await bench.group.settled();
  const trace = bench.watch();
  await bench.put(bench.snapshot('s'), Buffer.alloc(100, 7), REGION - 50);
  const wanted = Buffer.concat(before.map((fill) => Buffer.alloc(REGION, fill))).fill(
    7,
    REGION - 50,
    REGION + 50,
  );
  const look = async (stage: string) => {
    t.same(await bench.read(bench.snapshot('s'), 0, 8 * REGION), wanted, stage);
    t.same(
      await bench.fills(bench.snapshot('later')),
      [1, 9, 3, 4, 5, 6, 7, 8],
      `${stage}: not another snapshot`,
    );
    t.same(await bench.fills(), [1, 9, 3, 4, 5, 6, 7, 8], `${stage}: not the volume`);
  };
  await look('written');
  t.notOk(trace.includes('write log.ring'), 'it is local to the node');
  t.ok(
    inOrder(trace, [
      'create s/v.modified',
      'write s/v.modified',
      'sync s/v.modified',
      'write s/v.modified',
      'sync s/v.modified',
    ]),
  );
  t.same(
    bench.group.snapshots.map(({ volumes }) => volumes[0]?.modifiedRegions),
    [2, 0],
  );
  await bench.snapshot('s').flush();
  await bench.crash();
  await look('after a crash');
  await bench.snapshot('s').trim(2 * REGION, REGION);
  wanted.fill(0, 2 * REGION, 3 * REGION);
  await look('trimmed');
});

t.test(
  'S3: it does not change the image: an older snapshot never reads what was written through a newer one',
  async (t) => {
    const bench = await numbered();
    await bench.group.createSnapshot('newer');
    await bench.write(0, 7, 1, bench.snapshot('newer'));
    t.same(await bench.fills(bench.snapshot('s')), before);
    t.same(await bench.fills(), before);
    await bench.write(0, 9);
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), before);
    await bench.group.deleteSnapshot('newer');
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), before, 'nor after the newer one is gone');
  },
);

t.test('S4: a name goes durably and at once, also on a full disk, and with the log full', async (t) => {
  const bench = await numbered();
  await bench.group.createSnapshot('u');
  await bench.write(0, 9, 4);
  await bench.group.settled();
  await bench.write(4, 9);
  await bench.pass(5);
  bench.folder.faults.spaceSectors = 0;
  const { lsn } = bench.durableRecord().nodes.at(-1) ?? { lsn: 0 };
  await bench.group.deleteSnapshot('s');
  t.same(
    bench.durableRecord().nodes.map((node) => node.name),
    [null, 'u'],
  );
  t.ok(lsn > 0);
  t.equal(bench.group.snapshotVolume('s', 'v'), undefined);
  await bench.crash();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['u'],
  );
});

t.test('S4: a snapshot that is deleted before its record is applied is void', async (t) => {
  const bench = await numbered();
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('v.img') ? 'EIO' : undefined));
  await bench.write(0, 9);
  await bench.group.createSnapshot('pending');
  const id = bench.group.snapshots.at(-1)?.id ?? '';
  await bench.pass(60);
  t.ok(bench.group.stall);
  await bench.group.deleteSnapshot('pending');
  t.same(bench.durableRecord().voided, [id]);
  await bench.crash();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['s'],
  );
  await bench.group.settled();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['s'],
  );
  const { voided, nodes } = bench.durableRecord();
  t.same([voided, nodes.length], [[], 1], 'and forgotten');
});

t.test('S4: a nameless layer goes on being read; the janitor moves its copies in order', async (t) => {
  const bench = await numbered();
  await bench.group.createSnapshot('u');
  await bench.write(0, 9, 2);
  await bench.group.settled();
  await bench.group.createSnapshot('w');
  await bench.write(1, 8, 2);
  await bench.group.settled();
  const trace = bench.watch();
  const { id } = bench.group.snapshots[1] ?? { id: '' };
  await bench.group.deleteSnapshot('u');
  t.same(await bench.fills(bench.snapshot('s')), before);
  await bench.group.settled();
  t.same(await bench.fills(bench.snapshot('s')), before);
  t.same(await bench.fills(bench.snapshot('w')), [9, 9, 3, 4, 5, 6, 7, 8]);
  const steps = trace.filter((entry) => /preserved/.test(entry) && !/create|remove|zero/.test(entry));
  const older = steps.slice(steps.findIndex((entry) => entry.startsWith('write s/')));
  t.ok(
    inOrder(older, [
      'write s/v.preserved',
      'sync s/v.preserved',
      'write s/v.preserved',
      'sync s/v.preserved',
      'write u/v.preserved',
      'sync u/v.preserved',
      'punch u/v.preserved',
    ]),
    older.join(),
  );
  t.equal(older.lastIndexOf('sync s/v.preserved') < older.indexOf('write u/v.preserved'), true);
  const left = [...bench.folder.media.keys()].filter((name) => name.includes(id));
  t.same(left, [], 'and its files go');
});

t.test('S4: any crash of the janitor loses nothing', async (t) => {
  for (let cut = 1; cut < 40; cut += 2) {
    const bench = await numbered({ seed: cut });
    await bench.group.createSnapshot('u');
    await bench.write(0, 9, 4);
    await bench.group.settled();
    bench.cutAt(cut);
    const work = async () => {
      await bench.group.deleteSnapshot('u');
      await bench.group.settled();
    };
    await Promise.race([work().catch(() => {}), bench.turns(3000)]);
    await bench.crash();
    t.same(await bench.fills(bench.snapshot('s')), before, `cut ${cut}`);
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), before, `cut ${cut}, settled`);
  }
});

t.test('S4: the source of a running restore is needed, whatever its name', async (t) => {
  const bench = await numbered({ group: { copyBytesPerSecond: 1 } });
  await bench.write(0, 9, 8);
  await bench.group.settled();
  await bench.group.restore('s');
  await bench.group.deleteSnapshot('s');
  await bench.pass(60);
  t.same(await bench.fills(), before);
  await bench.crash();
  await bench.pass(60);
  t.ok(
    bench.group.operations.some(({ kind }) => kind === 'restore'),
    'it is not complete',
  );
  t.same(await bench.fills(), before);
  await bench.write(7, 5);
  t.same(await bench.fills(), [...before.slice(0, 7), 5]);
  for (let round = 0; round < 12; round++) await bench.pass(5_000_000, 5_000_000);
  await bench.group.settled();
  t.same(bench.rawFills(), [...before.slice(0, 7), 5]);
  t.equal(bench.durableRecord().nodes.filter(({ name }) => name === null).length, 0, 'then it goes');
});

t.test('S4: the next restore replaces the undo snapshot, unless it was given a name', async (t) => {
  const bench = await numbered();
  await bench.write(0, 9);
  await bench.group.restore('s');
  await bench.write(0, 8);
  await bench.group.restore('s');
  t.same(await bench.fills(bench.snapshot('undo')), [8, ...before.slice(1)]);
  t.equal(bench.group.snapshots.length, 2);
  await bench.group.renameSnapshot('undo', 'kept');
  await bench.write(0, 7);
  await bench.group.restore('s');
  await bench.group.settled();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['s', 'kept', 'undo'],
  );
  t.same((await bench.fills(bench.snapshot('kept')))[0], 8);
  t.same((await bench.fills(bench.snapshot('undo')))[0], 7);
  await t.rejects(bench.group.createSnapshot('undo'), { code: 'invalid' });
  await t.rejects(bench.group.renameSnapshot('kept', 'undo'), { code: 'invalid' });
});

t.test('S5: the record of a snapshot needs no space: the applier never stops on one', async (t) => {
  const bench = await numbered();
  bench.folder.faults.spaceSectors = 0;
  const trace = bench.watch();
  await bench.group.createSnapshot('tight');
  await bench.group.settled();
  t.equal(bench.group.stall, undefined);
  t.equal(bench.group.log.appliedLsn, bench.group.log.endLsn);
  t.same(
    trace.filter((entry) => /create|zero|punch/.test(entry)),
    [],
  );
});

t.test(
  'S6: refresh moves a snapshot to now by the map; one that was written is kept unless forced',
  async (t) => {
    const bench = await numbered();
    await bench.write(0, 9);
    await bench.group.settled();
    const trace = bench.watch();
    const served = bench.snapshot('s');
    const view = await bench.group.refreshSnapshot('s');
    t.equal(view.volumes[0]?.preservedRegions, 0);
    await bench.group.settled();
    t.same(await bench.fills(served), [9, ...before.slice(1)], 'who has it open goes on');
    t.equal(times(trace, 'write v.img'), 0);
    await bench.write(3, 7, 1, bench.snapshot('s'));
    await t.rejects(bench.group.refreshSnapshot('s'), { code: 'in-use', message: /--force/ });
    t.equal((await bench.fills(bench.snapshot('s')))[3], 7, 'refused, and unchanged');
    await bench.group.refreshSnapshot('s', { force: true });
    t.same(await bench.fills(bench.snapshot('s')), [9, ...before.slice(1)]);
    await bench.crash();
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), [9, ...before.slice(1)]);
  },
);

t.test(
  'S6: a detached snapshot stands for itself; refresh and restore move only what changed on either side',
  async (t) => {
    const bench = await numbered();
    await bench.group.detachSnapshot('s');
    await bench.write(0, 9);
    await bench.write(5, 7, 1, bench.snapshot('s'));
    await bench.group.settled();
    t.equal(bench.group.snapshots[0]?.state, 'detached');
    t.equal(times(bench.told, 'snapshot.detached'), 1);
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 3, 4, 5, 7, 7, 8]);
    await bench.write(1, 9);
    await bench.group.settled();
    await bench.reopen();
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 3, 4, 5, 7, 7, 8]);
    const plan = bench.group.planRestore('s');
    t.equal(plan.regions, 3, 'two that were written to the volume, one through the snapshot');
    await bench.group.restore('s');
    t.same(await bench.fills(), [1, 2, 3, 4, 5, 7, 7, 8]);
    await bench.group.settled();
    t.equal(bench.group.counters.regionsRestored, 3);
    await bench.write(2, 9);
    await bench.group.settled();
    const copies: string[] = [];
    bench.watch((operation, name) => {
      if (operation === 'write' && name.endsWith('.copied')) copies.push(name);
      return undefined;
    });
    await bench.group.refreshSnapshot('s', { force: true });
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 9, 4, 5, 7, 7, 8], 'at once');
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 9, 4, 5, 7, 7, 8], 'and when it is copied');
    t.ok(copies.length <= 5, `${copies.length} writes for the regions that changed, none for the others`);
    await bench.crash();
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 9, 4, 5, 7, 7, 8]);
    t.same([...bench.group.changedRuns('v', 's', undefined, 0, 8)], []);
  },
);

t.test('S7: a local snapshot says so, also after a restart', async (t) => {
  const bench = await numbered();
  await bench.group.createSnapshot('mine', { local: true });
  await bench.crash();
  await bench.group.settled();
  const views = bench.group.snapshots;
  t.same(
    views.map(({ local }) => local),
    [false, true],
  );
  t.not(views[0]?.id, views[1]?.id, 'its identity is random');
});

t.test('S8: on a full disk the writers are held, and go on when there is space', async (t) => {
  const bench = await numbered();
  bench.folder.faults.spaceSectors = 0;
  await bench.write(0, 9);
  await bench.pass(100);
  await bench.group.settled();
  t.match(bench.group.stall, /ENOSPC/);
  t.ok(inOrder(bench.told, ['group.stalled']));
  t.same((await bench.fills())[0], 9, 'readers see what is logged');
  t.equal(bench.group.snapshots.length, 1, 'nothing is given up');
  bench.folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
  await bench.pass(1100);
  await bench.group.settled();
  t.equal(bench.group.stall, undefined);
  t.ok(inOrder(bench.told, ['group.stalled', 'group.resumed']));
  t.same(await bench.fills(bench.snapshot('s')), before);
});

t.test('S8: or the oldest snapshots are given up loudly, undo snapshots first', async (t) => {
  const bench = await numbered({ onFull: 'give-up' });
  await bench.group.createSnapshot('u');
  await bench.write(0, 9);
  await bench.group.restore('u');
  await bench.write(1, 9);
  await bench.group.settled();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['s', 'u', 'undo'],
  );
  let full = 2;
  bench.watch((operation, name) =>
    operation === 'write' && name.endsWith('v.img') && full-- > 0 ? 'ENOSPC' : undefined,
  );
  await bench.write(2, 9, 4);
  await bench.pass(100);
  await bench.group.settled();
  const given = bench.events.filter(({ type }) => type === 'snapshot.given-up');
  t.same(
    given.map(({ data }) => data?.['snapshot']),
    ['undo', 's'],
  );
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['u'],
  );
  t.same(await bench.fills(bench.snapshot('u')), before);
  t.same(await bench.fills(), [1, 9, 9, 9, 9, 9, 7, 8]);
});
