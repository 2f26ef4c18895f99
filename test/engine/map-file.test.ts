import t from 'tap';
import { EngineError } from '../../engine/errors.ts';
import {
  MAP_ACTIVITY_OFFSET_BYTES,
  MAP_BLOCK_BYTES,
  MAP_SECTORS_OFFSET_BYTES,
} from '../../engine/formats.ts';
import { MapFile } from '../../engine/map/map-file.ts';
import { type MapIdentity, mapFileBytes, zoneRegions } from '../../engine/map/map-format.ts';
import { GIB, KIB, MIB, TIB } from '../../engine/units.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const identity: MapIdentity = {
  volumeId: '01234567-89ab-cdef-0123-456789abcdef',
  sizeBytes: 4 * GIB,
  regionBytes: 64 * KIB,
};
const REGIONS = (4 * GIB) / (64 * KIB);
const ROUND_MS = 2000;

async function createMap(folder: MemoryFolder, clock: ManualClock, allWritten = false): Promise<MapFile> {
  const disk = await folder.create('map', mapFileBytes(identity));
  return MapFile.create(disk, identity, clock, { allWritten });
}

async function openMap(folder: MemoryFolder, clock: ManualClock): Promise<MapFile> {
  return MapFile.open(await folder.open('map'), identity, clock);
}

/** Lets everything that is ready run. The simulated disks wait for nothing but turns. */
async function settle(): Promise<void> {
  for (let turns = 0; turns < 200; turns++) await Promise.resolve();
}

async function changeSector(folder: MemoryFolder, offsetBytes: number, change: (sector: Buffer) => void) {
  const disk = await folder.open('map');
  const sector = Buffer.alloc(512);
  await disk.read(sector, 0, 512, offsetBytes);
  change(sector);
  await disk.write(sector, 0, 512, offsetBytes);
  await disk.sync();
  await disk.close();
}

t.test('zones are neither small nor many', async (t) => {
  t.equal(zoneRegions(identity), (64 * MIB) / (64 * KIB));
  const large = { ...identity, sizeBytes: 4096 * TIB };
  t.ok((4096 * TIB) / (zoneRegions(large) * 64 * KIB) <= 3968);
  t.equal(zoneRegions({ ...identity, regionBytes: 32 * MIB }), 2);
});

t.test('a superset after crashes at any moment, exact after a clean close', async (t) => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = new Random(seed);
    const folder = new MemoryFolder(random);
    const clock = new ManualClock();
    const written = new Set<number>();
    let map = await createMap(folder, clock);
    for (let life = 0; life < 6; life++) {
      let alive = true;
      const writer = async (marks: number): Promise<void> => {
        for (let i = 0; i < marks && alive; i++) {
          const first = random.below(REGIONS);
          const end = Math.min(REGIONS, first + (random.chance(0.1) ? random.between(1, 3000) : 1));
          try {
            if (!map.tryMark(first, end)) await map.mark(first, end);
          } catch {
            continue;
          }
          if (!alive) return;
          for (let region = first; region < end; region++) written.add(region);
          for (let turns = random.below(6); turns > 0; turns--) await Promise.resolve();
        }
      };
      // Some lives have a disk that is full at times.
      const full = random.chance(0.3);
      folder.faults.decide = (operation) =>
        full && operation === 'write' && random.chance(0.2) ? 'ENOSPC' : undefined;
      const writers = [1, 2, 3].map(() => writer(random.between(1, 25)));
      const steps = random.between(1, 12);
      for (let step = 0; step < steps; step++) {
        if (random.chance(0.6)) clock.advance(ROUND_MS);
        for (let turns = random.below(40); turns > 0; turns--) await Promise.resolve();
      }
      const clean = random.chance(0.3);
      if (clean) {
        await Promise.all(writers);
        folder.faults.decide = undefined;
        const before = map.written.count;
        await map.close();
        map = await openMap(folder, clock);
        if (map.written.count !== before)
          throw new Error(`seed ${seed}: ${before} became ${map.written.count}`);
      } else {
        alive = false;
        folder.crash();
        folder.faults.decide = undefined;
        clock.advance(0);
        await Promise.all(writers);
        map = await openMap(folder, clock);
      }
      for (const region of written)
        if (!map.written.has(region)) throw new Error(`seed ${seed} life ${life}: region ${region} is lost`);
      if (map.warnings.length > 0) throw new Error(`seed ${seed}: ${map.warnings.join()}`);
    }
  }
  t.pass('no mark was lost');
});

t.test('what was quiet before a crash is known exactly; what was active counts whole', async (t) => {
  const folder = new MemoryFolder(new Random(7));
  const clock = new ManualClock();
  const map = await createMap(folder, clock);
  t.equal(map.tryMark(5, 6), false, 'the first mark in a zone has to wait');
  t.equal(map.written.has(5), false, 'and has marked nothing');
  await map.mark(5, 6);
  t.equal(map.tryMark(6, 8), true, 'the next ones do not');
  for (let round = 0; round < 2; round++) {
    clock.advance(ROUND_MS);
    await settle();
  }
  t.equal(clock.timerCount, 0, 'once all is written no timer is left');
  t.equal(map.tryMark(5, 8), true, 'what is durably marked needs no zone');
  t.equal(map.tryMark(9, 10), false, 'what is not does');
  await map.mark(40_000, 40_001);
  folder.crash();
  const after = await openMap(folder, clock);
  const zone = Math.floor(40_000 / 1024) * 1024;
  t.same(
    [...after.written.runs()],
    [
      { first: 5, end: 8 },
      { first: zone, end: zone + 1024 },
    ],
  );
});

t.test('writers that wait at the same time share a sync', async (t) => {
  const folder = new MemoryFolder(new Random(3));
  let syncs = 0;
  const map = await createMap(folder, new ManualClock());
  folder.faults.decide = (operation) => {
    if (operation === 'sync') syncs++;
    return undefined;
  };
  await Promise.all(Array.from({ length: 60 }, (_, i) => map.mark(i * 1024, i * 1024 + 1)));
  t.ok(syncs <= 2, `${syncs} syncs for 60 zones`);
});

t.test('what is marked together takes one sync, however many zones it is in', async (t) => {
  const folder = new MemoryFolder(new Random(3));
  const map = await createMap(folder, new ManualClock());
  let syncs = 0;
  folder.faults.decide = (operation) => {
    if (operation === 'sync') syncs++;
    return undefined;
  };
  const runs = Array.from({ length: 60 }, (_, i) => ({ first: i * 1024, end: i * 1024 + 2 }));
  await map.markAll(runs);
  t.equal(syncs, 1);
  t.equal(map.written.count, 120);
  await map.markAll(runs);
  t.equal(syncs, 1, 'their zones are active now');
});

t.test('damage makes the map larger, never smaller, and is told', async (t) => {
  const cases: { name: string; offset: number[]; all: boolean }[] = [
    { name: 'one header', offset: [0], all: false },
    { name: 'the other header', offset: [MAP_BLOCK_BYTES], all: false },
    { name: 'both headers', offset: [0, MAP_BLOCK_BYTES], all: true },
    { name: 'the activity sector', offset: [MAP_ACTIVITY_OFFSET_BYTES], all: true },
  ];
  for (const { name, offset, all } of cases) {
    const folder = new MemoryFolder(new Random(1));
    const clock = new ManualClock();
    const map = await createMap(folder, clock);
    await map.mark(100, 101);
    await map.close();
    for (const at of offset)
      await changeSector(folder, at, (sector) => sector.writeUInt8(sector.readUInt8(20) ^ 1, 20));
    const damaged = await openMap(folder, clock);
    t.equal(damaged.written.count, all ? REGIONS : 1, name);
    t.equal(damaged.warnings.length, all ? 1 : 0, `${name}: a warning`);
    await damaged.close();
    const again = await openMap(folder, clock);
    t.equal(again.written.count, all ? REGIONS : 1, `${name}: and stays so`);
    t.same(again.warnings, [], `${name}: repaired`);
  }
});

t.test('a damaged sector of the map counts as all written, and is repaired', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const map = await createMap(folder, clock);
  await map.mark(100, 101);
  await map.mark(5000, 5001);
  await map.close();
  await changeSector(folder, MAP_SECTORS_OFFSET_BYTES, (sector) => sector.writeUInt8(1, 300));
  for (let opening = 0; opening < 2; opening++) {
    const damaged = await openMap(folder, clock);
    t.same(
      [...damaged.written.runs()],
      [
        { first: 0, end: 4032 },
        { first: 5000, end: 5001 },
      ],
    );
    t.equal(damaged.warnings.length, opening === 0 ? 1 : 0);
    await damaged.close();
  }
});

t.test('a sector in the wrong place is damage', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const map = await createMap(folder, clock);
  await map.mark(100, 101);
  await map.close();
  const copy = Buffer.alloc(512);
  await changeSector(folder, MAP_SECTORS_OFFSET_BYTES, (sector) => sector.copy(copy));
  await changeSector(folder, MAP_SECTORS_OFFSET_BYTES + 512, (sector) => copy.copy(sector));
  const opened = await openMap(folder, clock);
  t.equal(opened.written.countRange(4032, 8064), 4032);
});

t.test("another volume's map, a later version and a short file are refused", async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  await (await createMap(folder, clock)).close();
  const other = { ...identity, volumeId: 'ffffffff-89ab-cdef-0123-456789abcdef' };
  const disk = await folder.open('map');
  await t.rejects(MapFile.open(disk, other, clock), { code: 'corrupt', message: /another volume/ });
  const larger = { ...identity, sizeBytes: 40 * GIB };
  await t.rejects(MapFile.open(disk, larger, clock), { code: 'corrupt', message: /too few/ });
});

t.test('what was there before counts as written, at no cost', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const map = await createMap(folder, clock, true);
  t.equal(map.written.count, REGIONS);
  t.equal(map.tryMark(7, 9000), true);
  t.equal(clock.timerCount, 0);
  folder.crash();
  t.equal((await openMap(folder, clock)).written.count, REGIONS);
});

t.test('L6: after a failed sync no zone becomes active, and that is told once', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const map = await createMap(folder, clock);
  const told: string[] = [];
  map.onFailure = (reason) => told.push(reason);
  await map.mark(0, 1);
  let syncs = 0;
  folder.faults.decide = (operation) => {
    if (operation !== 'sync') return undefined;
    syncs++;
    return 'EIO';
  };
  const failed = map.mark(2000, 2001);
  await t.rejects(failed, { code: 'disk', errno: 'EIO' });
  t.equal(told.length, 1);
  t.match(told[0], /sync failed \(EIO\)/);
  folder.faults.decide = undefined;
  await t.rejects(map.mark(4000, 4001), EngineError);
  t.equal(syncs, 1, 'it was not tried again');
  t.equal(told.length, 1);
  t.equal(map.tryMark(2000, 2001), false);
  t.equal(map.tryMark(1, 2), true, 'a zone that was active before stays so');
  clock.advance(ROUND_MS);
  await settle();
  await map.close();
});

t.test('L6: a map that is forgiven stays a superset, whatever its failed syncs lost', async (t) => {
  let failures = 0;
  for (let seed = 1; seed <= 150; seed++) {
    const random = new Random(seed);
    const folder = new MemoryFolder(random);
    folder.faults.lostOnFailedSync = true;
    const clock = new ManualClock();
    const written = new Set<number>();
    let map = await createMap(folder, clock);
    for (let life = 0; life < 5; life++) {
      let alive = true;
      const writer = async (marks: number): Promise<void> => {
        for (let i = 0; i < marks && alive; i++) {
          const region = random.below(REGIONS);
          try {
            if (!map.tryMark(region, region + 1)) await map.mark(region, region + 1);
          } catch {
            failures++;
            if (alive) map.forgive();
            continue;
          }
          if (!alive) return;
          written.add(region);
          for (let turns = random.below(6); turns > 0; turns--) await Promise.resolve();
        }
      };
      folder.faults.decide = (operation) => (operation === 'sync' && random.chance(0.2) ? 'EIO' : undefined);
      const writers = [1, 2, 3].map(() => writer(random.between(1, 25)));
      for (let step = random.between(1, 12); step > 0; step--) {
        if (random.chance(0.8)) clock.advance(ROUND_MS);
        for (let turns = random.below(40); turns > 0; turns--) await Promise.resolve();
      }
      alive = false;
      folder.faults.decide = undefined;
      // The power goes; or the process alone, and the power only after the next one has read what the page cache holds.
      if (random.chance(0.5)) {
        await Promise.all(writers);
        await map.close();
        map = await openMap(folder, clock);
      }
      folder.crash();
      await Promise.all(writers);
      map = await openMap(folder, clock);
      for (const region of written)
        if (!map.written.has(region)) throw new Error(`seed ${seed} life ${life}: region ${region} is lost`);
    }
  }
  t.ok(failures > 100, `${failures} marks failed`);
});

t.test('a full disk delays the background writer, and loses nothing', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const map = await createMap(folder, clock);
  await map.mark(77, 78);
  folder.faults.decide = (operation) => (operation === 'write' ? 'ENOSPC' : undefined);
  for (let round = 0; round < 3; round++) {
    clock.advance(ROUND_MS);
    await settle();
  }
  t.equal(clock.timerCount, 1, 'it tries again later');
  await t.rejects(map.mark(9000, 9001), { code: 'disk', errno: 'ENOSPC' });
  folder.faults.decide = undefined;
  await map.mark(9000, 9001);
  for (let round = 0; round < 3; round++) {
    clock.advance(ROUND_MS);
    await settle();
  }
  t.equal(clock.timerCount, 0);
  folder.crash();
  const after = await openMap(folder, clock);
  t.same(
    [...after.written.runs()],
    [
      { first: 77, end: 78 },
      { first: 9000, end: 9001 },
    ],
  );
});
