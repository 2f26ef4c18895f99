import t from 'tap';
import { GroupBench, REGION } from '../../fixtures/group-bench.ts';
import { Random } from '../../fixtures/random.ts';

const REGIONS = 24;

const listed = (
  bench: GroupBench,
  from: string,
  to: string | undefined,
  first = 0,
  end = REGIONS,
): number[] =>
  bench.group
    .changedRuns('v', from, to, first, end)
    .flatMap((run) => Array.from({ length: run.end - run.first }, (_, index) => run.first + index));

t.test('sound and tight: what differs is listed, what was never touched is not', async (t) => {
  for (let seed = 1; seed <= 6; seed++) {
    const random = new Random(seed);
    const bench = await GroupBench.make({ seed, regions: REGIONS });
    await bench.write(0, 250, REGIONS);
    /** Of each snapshot, its image, and what was touched since, of the volume and through it. */
    const images = new Map<string, { fills: number[]; at: number; written: Set<number> }>();
    const touched: { at: number; region: number }[] = [];
    for (let step = 1; step <= 50; step++) {
      const region = random.below(REGIONS);
      const kind = random.below(8);
      if (kind === 0 && images.size < 4) {
        await bench.group.createSnapshot(`s${step}`);
        images.set(`s${step}`, { fills: await bench.fills(), at: step, written: new Set() });
      } else if (kind === 1 && images.size > 0) {
        const name = random.pick([...images.keys()]);
        await bench.write(region, step, 1, bench.snapshot(name));
        images.get(name)?.written.add(region);
      } else if (kind === 2) await bench.pass(60);
      else {
        await bench.write(region, step);
        touched.push({ at: step, region });
      }
      const head = await bench.fills();
      const since = (at: number, before = Number.POSITIVE_INFINITY) =>
        new Set(touched.filter((write) => write.at > at && write.at < before).map((write) => write.region));
      for (const [name, { at, written }] of images) {
        const fills = await bench.fills(bench.snapshot(name));
        const found = listed(bench, name, undefined);
        const may = new Set([...since(at), ...written]);
        for (let region = 0; region < REGIONS; region++) {
          if (fills[region] !== head[region] && !found.includes(region))
            throw new Error(`seed ${seed}: missed`);
          if (!may.has(region) && found.includes(region)) throw new Error(`seed ${seed}: never touched`);
        }
        for (const [other, image] of images) {
          if (other === name) continue;
          const between = listed(bench, name, other);
          const others = await bench.fills(bench.snapshot(other));
          const [from, to] = [Math.min(at, image.at), Math.max(at, image.at)];
          const most = new Set([...since(from, to), ...written, ...image.written]);
          for (let region = 0; region < REGIONS; region++) {
            const differs = fills[region] !== others[region];
            if (differs && !between.includes(region))
              throw new Error(`seed ${seed}: ${name} ${other} missed`);
            if (!most.has(region) && between.includes(region))
              throw new Error(`seed ${seed}: ${name} ${other}, region ${region} was never touched`);
          }
        }
      }
    }
  }
  t.pass();
});

t.test('runs are cut to the range, in order, and merged', async (t) => {
  const bench = await GroupBench.logged({ regions: REGIONS });
  await bench.write(2, 1, 5);
  await bench.group.settled();
  await bench.write(7, 1, 2);
  await bench.write(20, 1);
  const runs = (first: number, end: number) => bench.group.changedRuns('v', 's', undefined, first, end);
  t.same(runs(0, REGIONS), [
    { first: 2, end: 9 },
    { first: 20, end: 21 },
  ]);
  t.same(runs(4, 6), [{ first: 4, end: 6 }]);
  t.same(runs(9, 20), []);
  t.same(runs(5, 5), []);
  t.same(runs(20, REGIONS), [{ first: 20, end: 21 }]);
});

t.test('a restore moves the map, and no more', async (t) => {
  const bench = await GroupBench.make({ regions: REGIONS });
  await bench.write(0, 1, REGIONS);
  await bench.group.createSnapshot('s');
  await bench.write(3, 2, 2);
  await bench.write(10, 2, 1, bench.snapshot('s'));
  await bench.group.settled();
  await bench.write(15, 2);
  const plan = bench.group.planRestore('s');
  t.match(plan, { regions: 4, bytes: 4 * REGION });
  await bench.group.restore('s');
  await bench.group.settled();
  t.equal(bench.group.counters.regionsRestored, 4);
  const wanted = Array(REGIONS).fill(1);
  wanted[10] = 2;
  t.same(await bench.fills(), wanted);
  t.same(listed(bench, 's', undefined), [3, 4, 10, 15], 'what was brought back may still be listed');
  t.equal(bench.group.planRestore('undo').regions, 4);
});
