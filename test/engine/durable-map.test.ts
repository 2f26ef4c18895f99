import t from 'tap';
import { MAP_SECTOR_REGIONS, SECTOR_BYTES } from '../../engine/formats.ts';
import { DurableMap } from '../../engine/map/durable-map.ts';
import type { RegionMapView } from '../../engine/map/region-map.ts';
import { type Faults, MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const START_BYTES = 4096;

const setOf = (view: RegionMapView): Set<number> => {
  const regions = new Set<number>();
  for (const { first, end } of view.runs()) for (let at = first; at < end; at++) regions.add(at);
  return regions;
};

const same = (a: ReadonlySet<number>, b: ReadonlySet<number>): boolean =>
  a.size === b.size && [...a].every((item) => b.has(item));

async function newDisk(random: Random, regionCount: number) {
  const folder = new MemoryFolder(random);
  const sizeBytes = START_BYTES + DurableMap.bytesFor(regionCount);
  const disk = await folder.create('m', sizeBytes);
  return { folder, disk };
}

/** Fails one call in so many, of those that change something. */
function failing(random: Random, probability: number): Faults['decide'] {
  return (operation) =>
    (operation === 'sync' || operation === 'write') && random.chance(probability) ? 'EIO' : undefined;
}

t.test('what was set durably survives every crash; what was not is not seen', async (t) => {
  const regionCount = MAP_SECTOR_REGIONS * 3 + 100;
  for (let seed = 1; seed <= 60; seed++) {
    const random = new Random(seed);
    const { folder, disk: first } = await newDisk(random, regionCount);
    folder.faults.tryRefusal = 0.5;
    folder.faults.lostOnFailedSync = true;
    let disk = first;
    let map = DurableMap.blank(disk, START_BYTES, regionCount);
    /** Certainly there; and what a change that failed may have set or cleared. */
    let model = new Set<number>();
    let unsure = new Set<number>();
    for (let step = 0; step < 40; step++) {
      const regions = Array.from({ length: random.between(1, 5) }, () => random.below(regionCount));
      const start = random.below(regionCount);
      const run = { first: start, end: Math.min(regionCount, start + random.between(1, 6000)) };
      const all: number[] = [...regions];
      const kind = random.below(4);
      folder.faults.decide = random.chance(0.3) ? failing(random, 0.4) : undefined;
      const before = setOf(map.view);
      let failed = false;
      try {
        if (kind === 0) await map.set(regions);
        else if (kind === 1) await map.clear(regions);
        else {
          all.splice(0, all.length);
          for (let at = run.first; at < run.end; at++) all.push(at);
          await (kind === 2 ? map.setRuns([run]) : map.clearRuns([run]));
        }
      } catch {
        failed = true;
      }
      folder.faults.decide = undefined;
      if (failed) {
        if (!same(setOf(map.view), before)) t.fail(`seed ${seed} step ${step}: memory changed`);
        // The sectors concerned are put back by a flush; until then they are anything.
        for (const region of all) unsure.add(region);
        disk.forgive();
        if (random.chance(0.7)) {
          t.equal(map.dirty || kind < 0, true);
          await map.flush();
          unsure = new Set();
        }
      } else
        for (const region of all) {
          if (kind === 0 || kind === 2) model.add(region);
          else model.delete(region);
          unsure.delete(region);
        }
      if (!same(setOf(map.view), model)) t.fail(`seed ${seed} step ${step}: memory differs`);
      if (random.chance(0.2)) {
        // Either the power goes, or the process alone; then the page cache stays, with what no sync wrote.
        if (random.chance(0.5)) folder.crash();
        else await disk.close();
        disk = await folder.open('m');
        const loaded = await DurableMap.load(disk, START_BYTES, regionCount);
        map = loaded.map;
        t.same(loaded.doubtful, []);
        const found = setOf(map.view);
        for (const region of found)
          if (!model.has(region) && !unsure.has(region)) t.fail(`seed ${seed} step ${step}: ${region} came`);
        for (const region of model)
          if (!found.has(region) && !unsure.has(region)) t.fail(`seed ${seed} step ${step}: ${region} went`);
        model = found;
        unsure = new Set();
        if (random.chance(0.3)) {
          folder.crash();
          disk = await folder.open('m');
          map = (await DurableMap.load(disk, START_BYTES, regionCount)).map;
          if (!same(setOf(map.view), model))
            t.fail(`seed ${seed} step ${step}: what was loaded was not durable`);
        }
      }
    }
  }
});

t.test('L6: what is loaded after a sync that failed in a process that is gone is made durable', async (t) => {
  let believed = 0;
  for (let seed = 1; seed <= 40; seed++) {
    const { folder, disk } = await newDisk(new Random(seed), 100);
    folder.faults.lostOnFailedSync = true;
    const map = DurableMap.blank(disk, START_BYTES, 100);
    await map.set([7]);
    folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
    await t.rejects(map.set([8]), { code: 'disk', errno: 'EIO' });
    t.same([...map.view.runs()], [{ first: 7, end: 8 }]);
    folder.faults.decide = undefined;
    await disk.close();
    const again = await DurableMap.load(await folder.open('m'), START_BYTES, 100);
    const seen = setOf(again.map.view);
    if (seen.has(8)) believed++;
    folder.crash();
    const last = await DurableMap.load(await folder.open('m'), START_BYTES, 100);
    t.same(setOf(last.map.view), seen, `seed ${seed}`);
  }
  t.ok(believed > 0 && believed < 40, `${believed} of 40 were still in the page cache`);
});

t.test('marks are in memory at once and durable with a flush', async (t) => {
  const regionCount = 20_000;
  const { folder, disk } = await newDisk(new Random(5), regionCount);
  const map = DurableMap.blank(disk, START_BYTES, regionCount);
  await map.flush();
  t.equal(map.dirty, false);
  map.mark(10, 20);
  map.mark(15_000, 15_001);
  map.unmark(12, 13);
  t.equal(map.dirty, true);
  folder.faults.decide = (operation) => (operation === 'write' ? 'ENOSPC' : undefined);
  await t.rejects(map.flush(), { code: 'disk' });
  t.equal(map.dirty, true, 'it is still to be done');
  folder.faults.decide = undefined;
  const flushing = map.flush();
  map.mark(30, 31);
  await flushing;
  t.equal(map.dirty, true, 'what came meanwhile is of the next one');
  await map.flush();
  t.equal(map.dirty, false);
  map.mark(10, 12);
  map.unmark(100, 200);
  t.equal(map.dirty, false, 'what is so already is nothing');
  folder.crash();
  const { map: again } = await DurableMap.load(await folder.open('m'), START_BYTES, regionCount);
  t.same(
    [...again.view.runs()].map(({ first, end }) => [first, end]),
    [
      [10, 12],
      [13, 20],
      [30, 31],
      [15_000, 15_001],
    ],
  );
});

t.test('changes go one after the other, each on what the one before it left', async (t) => {
  const { folder, disk } = await newDisk(new Random(6), 100);
  const map = DurableMap.blank(disk, START_BYTES, 100);
  await Promise.all([map.set([1, 2, 3]), map.clear([2]), map.set([50, 4]), map.setRuns([]), map.set([])]);
  folder.crash();
  const { map: again } = await DurableMap.load(await folder.open('m'), START_BYTES, 100);
  t.same(setOf(again.view), new Set([1, 3, 4, 50]));
  await t.rejects(again.set([100]), /bug/);
  await t.rejects(
    again.setRuns([
      { first: 20, end: 30 },
      { first: 10, end: 12 },
    ]),
    /bug: the runs are in order/,
  );
});

t.test('a damaged sector is doubtful, and stays so whatever is written into it', async (t) => {
  const regionCount = MAP_SECTOR_REGIONS * 2 + 10;
  const { folder, disk } = await newDisk(new Random(7), regionCount);
  const map = DurableMap.blank(disk, START_BYTES, regionCount);
  await map.set([5, MAP_SECTOR_REGIONS + 5, MAP_SECTOR_REGIONS * 2 + 5]);
  await disk.write(Buffer.from([0xff]), 0, 1, START_BYTES + 2 * SECTOR_BYTES + 100);
  await disk.close();
  const doubt = [{ first: MAP_SECTOR_REGIONS * 2, end: regionCount }];
  for (let round = 0; round < 2; round++) {
    const { map: again, doubtful } = await DurableMap.load(await folder.open('m'), START_BYTES, regionCount);
    t.same(doubtful, doubt, 'the last sector is short');
    t.equal(again.view.hasAll(MAP_SECTOR_REGIONS * 2, regionCount), true);
    t.same(
      [again.view.has(5), again.view.has(6), again.view.has(MAP_SECTOR_REGIONS + 5)],
      [true, false, true],
    );
    await again.clear([MAP_SECTOR_REGIONS * 2 + 3]);
    t.equal(again.view.has(MAP_SECTOR_REGIONS * 2 + 3), false);
    folder.crash();
  }
});

t.test('a terabyte: holes are passed over, and a change writes little', async (t) => {
  const regionCount = 16 * 1024 * 1024;
  const { folder, disk } = await newDisk(new Random(8), regionCount);
  const map = DurableMap.blank(disk, START_BYTES, regionCount);
  await map.set([0, 9_000_000, regionCount - 1]);
  t.equal(folder.usedSectors(), 3);
  await disk.close();
  let readBytes = 0;
  const opened = await folder.open('m');
  const read = opened.read.bind(opened);
  opened.read = (target, start, lengthBytes, offsetBytes) => {
    readBytes += lengthBytes;
    return read(target, start, lengthBytes, offsetBytes);
  };
  const { map: again } = await DurableMap.load(opened, START_BYTES, regionCount);
  t.equal(readBytes, 3 * SECTOR_BYTES);
  t.equal(again.view.count, 3);
  await again.setRuns([{ first: 0, end: regionCount }]);
  t.equal(again.view.count, regionCount);
  await again.clearRuns([{ first: 1, end: regionCount }]);
  t.same([...again.view.runs()], [{ first: 0, end: 1 }]);
});
