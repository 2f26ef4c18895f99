import t from 'tap';
import { PAGE_REGIONS, RegionMap } from '../../engine/map/region-map.ts';
import { Random } from '../fixtures/random.ts';

/** Compares everything that a map tells with a Set of regions. */
function compare(map: RegionMap, model: Set<number>, random: Random): string | undefined {
  if (map.count !== model.size) return `count ${map.count}, not ${model.size}`;
  const sorted = [...model].sort((a, b) => a - b);
  const fromRuns: number[] = [];
  let lastEnd = -1;
  for (const run of map.runs()) {
    if (run.first <= lastEnd) return `run at ${run.first} touches the one before it`;
    lastEnd = run.end;
    for (let region = run.first; region < run.end; region++) fromRuns.push(region);
  }
  if (fromRuns.length !== sorted.length || fromRuns.some((region, i) => region !== sorted[i])) return 'runs';
  for (let i = 0; i < 20; i++) {
    const from = random.below(map.length);
    if (map.has(from) !== model.has(from)) return `has ${from}`;
    let set = from;
    while (set < map.length && !model.has(set)) set++;
    if (map.nextSet(from) !== set) return `nextSet ${from}: ${map.nextSet(from)}, not ${set}`;
    let clear = from;
    while (clear < map.length && model.has(clear)) clear++;
    if (map.nextClear(from) !== clear) return `nextClear ${from}: ${map.nextClear(from)}, not ${clear}`;
    const end = random.between(from, map.length);
    let count = 0;
    for (const region of model) if (region >= from && region < end) count++;
    if (map.countRange(from, end) !== count) return `countRange ${from} ${end}`;
    const some = [...map.runs(from, end)].reduce((sum, run) => sum + run.end - run.first, 0);
    if (some !== count) return `runs ${from} ${end}`;
    if (map.hasAll(from, end) !== (count === end - from)) return `hasAll ${from} ${end}`;
  }
  return undefined;
}

t.test('a map tells what a set tells, through random changes', async (t) => {
  const lengths = [
    1,
    31,
    32,
    33,
    100,
    PAGE_REGIONS - 1,
    PAGE_REGIONS,
    PAGE_REGIONS + 1,
    2 * PAGE_REGIONS + 77,
  ];
  for (const length of lengths) {
    const random = new Random(length);
    const map = new RegionMap(length);
    const model = new Set<number>();
    for (let step = 0; step < 60; step++) {
      const first = random.below(length);
      const short = random.chance(0.5) ? Math.min(length, first + random.between(1, 70)) : length;
      const end = random.between(first, random.chance(0.1) ? length : short);
      const kind = random.below(5);
      if (kind === 0) {
        map.set(first);
        model.add(first);
      } else if (kind === 1) {
        map.clear(first);
        model.delete(first);
      } else if (kind === 2) {
        map.clearRange(first, end);
        for (let region = first; region < end; region++) model.delete(region);
      } else if (kind === 3) {
        const other = new RegionMap(length);
        other.setRange(first, end);
        other.set(first);
        map.or(other);
        for (let region = first; region < Math.max(end, first + 1); region++) model.add(region);
      } else {
        map.setRange(first, end);
        for (let region = first; region < end; region++) model.add(region);
      }
      const difference = compare(map, model, random);
      if (difference !== undefined) throw new Error(`length ${length} step ${step}: ${difference}`);
    }
    t.pass(`length ${length}`);
  }
});

t.test('whole pages are set, cleared in part, and set again', async (t) => {
  const map = new RegionMap(3 * PAGE_REGIONS + 5);
  map.setRange(0, map.length);
  t.equal(map.count, map.length);
  t.equal(map.nextClear(0), map.length);
  map.clear(PAGE_REGIONS + 9);
  t.equal(map.has(PAGE_REGIONS + 9), false);
  t.equal(map.has(9), true, 'the page that stands for all full ones is untouched');
  t.same(
    [...map.runs()],
    [
      { first: 0, end: PAGE_REGIONS + 9 },
      { first: PAGE_REGIONS + 10, end: map.length },
    ],
  );
  const other = new RegionMap(map.length);
  other.set(PAGE_REGIONS + 9);
  map.or(other);
  t.equal(map.count, map.length);
  map.clearRange(0, map.length);
  t.equal(map.count, 0);
  t.equal(map.nextSet(0), map.length);
});

t.test('a map of a petabyte is cheap, and counts beyond 2^32', async (t) => {
  const length = 2 ** 34 + 3;
  const map = new RegionMap(length);
  map.set(length - 1);
  map.setRange(2 ** 33 - 2, 2 ** 33 + 2);
  t.same(
    [...map.runs()],
    [
      { first: 2 ** 33 - 2, end: 2 ** 33 + 2 },
      { first: length - 1, end: length },
    ],
  );
  map.setRange(0, length);
  t.equal(map.count, length, 'full pages share their memory');
});

t.test('a question about a range looks at that range only', async (t) => {
  // Two million pages: a walk to the end of the map for each question would take hours, where this takes a blink.
  const length = 2 ** 36;
  const full = new RegionMap(length);
  full.setRange(0, length);
  const blank = new RegionMap(length);
  let right = 0;
  for (let step = 0; step < 300_000; step++) {
    const first = step * 3;
    if (full.hasAll(first, first + 2) && full.countRange(first, first + 2) === 2) right++;
    if (!blank.hasAll(first, first + 2) && blank.countRange(first, first + 2) === 0) right++;
    for (const run of full.runs(first, first + 2)) right += run.end - run.first;
    for (const run of blank.runs(first, first + 2)) right -= run.end - run.first;
  }
  t.equal(right, 4 * 300_000);
  t.throws(() => full.hasAll(0, length + 1), /bug/);
  t.throws(() => full.countRange(1, 0), /bug/);
});

t.test('a count goes by words, however scattered the regions are', async (t) => {
  const map = new RegionMap(4 * PAGE_REGIONS);
  for (let region = 0; region < map.length; region += 2) map.set(region);
  for (let at = 0; at < 4 * PAGE_REGIONS - 70; at += 1009) {
    t.equal(map.countRange(at, map.length), Math.floor((map.length - at + ((at + 1) % 2)) / 2), `from ${at}`);
  }
});

t.test('dirty pages are those that changed since they were taken', async (t) => {
  const map = new RegionMap(4 * PAGE_REGIONS);
  map.set(1);
  map.set(2);
  map.set(3 * PAGE_REGIONS);
  t.same(map.takeDirty(1), [0]);
  t.equal(map.isDirty(0), false);
  t.equal(map.isDirty(3), true);
  map.set(1);
  t.equal(map.isDirty(0), false, 'setting what is set changes nothing');
  map.clear(1);
  t.same(map.takeDirty(10), [3, 0]);
  t.equal(map.dirtyPageCount, 0);
  map.markDirty(2);
  map.markDirty(2);
  t.same(map.takeDirty(10), [2]);
});

t.test('words are given and taken, and bits beyond the end are not', async (t) => {
  const map = new RegionMap(70);
  map.orWord(2, 0xffff_ffff);
  t.equal(map.count, 6);
  t.equal(map.word(2), 0x3f);
  map.orWord(0, 0x8000_0001);
  t.equal(map.word(0), 0x8000_0001);
  t.same([map.has(0), map.has(31), map.has(69)], [true, true, true]);
  t.throws(() => map.orWord(3, 1), /bug/);
  t.throws(() => map.set(70), /bug/);
  t.throws(() => map.setRange(5, 71), /bug/);
  t.throws(() => map.or(new RegionMap(71)), /bug/);
});

t.test('a count of several maps together is that of their union', (t) => {
  const random = new Random(77);
  for (let round = 0; round < 40; round++) {
    const length = random.pick([1, 31, 4000, PAGE_REGIONS, 3 * PAGE_REGIONS + 17]);
    const maps = Array.from({ length: random.between(1, 4) }, () => new RegionMap(length));
    for (const map of maps) {
      for (let i = random.below(50); i > 0; i--) map.set(random.below(length));
      if (random.chance(0.3)) map.setRange(random.below(length), length);
    }
    const [first, ...others] = maps;
    // Counted again after each change: nothing that was kept of the maps as they were counts.
    for (let change = 0; change < 5; change++) {
      const union = new RegionMap(length);
      for (const map of maps) union.or(map);
      t.equal(first?.countWith(others), union.count, `round ${round}`);
      const region = random.below(length);
      if (random.chance(0.5)) random.pick(maps).set(region);
      else random.pick(maps).clearRange(region, Math.min(length, region + 40));
    }
  }
  t.end();
});

t.test('of another map only the pages of a range are taken', async (t) => {
  const other = new RegionMap(4 * PAGE_REGIONS + 9);
  other.setRange(0, other.length);
  for (let page = 0; page < 5; page++) other.clear(page * PAGE_REGIONS + 1);
  const map = new RegionMap(other.length);
  map.or(other, PAGE_REGIONS + 5, 3 * PAGE_REGIONS);
  t.same(
    [...map.runs()],
    [
      { first: PAGE_REGIONS, end: PAGE_REGIONS + 1 },
      { first: PAGE_REGIONS + 2, end: 2 * PAGE_REGIONS + 1 },
      { first: 2 * PAGE_REGIONS + 2, end: 3 * PAGE_REGIONS },
    ],
  );
  map.or(other, 4 * PAGE_REGIONS + 8, other.length);
  t.equal(map.countRange(3 * PAGE_REGIONS, map.length), 8);
});
