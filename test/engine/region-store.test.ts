import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import t from 'tap';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { SECTOR_BYTES, STORE_MAP_OFFSET_BYTES, seal, storeHeaderLayout } from '../../engine/formats.ts';
import { RegionStore, type StoreIdentity, storeDataStart } from '../../engine/snapshot/region-store.ts';
import { KIB, MIB, TIB } from '../../engine/units.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const REGION = 4 * KIB;
const NAME = 'snapshots/s/v.preserved';
/** The last region is short. */
const identity: StoreIdentity = {
  ownerId: randomUUID(),
  volumeId: randomUUID(),
  sizeBytes: 9 * REGION + 512,
  regionBytes: REGION,
};
const REGIONS = 10;
const lengthOf = (region: number): number => Math.min(REGION, identity.sizeBytes - region * REGION);

t.test('S1: a region that is there is there whole, after any crash, with any call failing', async (t) => {
  for (let seed = 1; seed <= 150; seed++) {
    const random = new Random(seed);
    const folder = new MemoryFolder(random);
    folder.faults.tryRefusal = 0.5;
    folder.faults.lostOnFailedSync = true;
    let store = await RegionStore.create(folder, NAME, identity);
    /** What each region was last written with, and is known to be there with. */
    let kept = new Map<number, number>();
    const unsure = new Set<number>();
    for (let step = 1; step <= 25; step++) {
      const regions = Array.from({ length: REGIONS }, (_, region) => region).filter(() => random.chance(0.3));
      const adding = random.chance(0.7);
      if (random.chance(0.4))
        folder.faults.decide = (operation) =>
          operation !== 'read' && random.chance(0.2) ? random.pick(['EIO', 'ENOSPC']) : undefined;
      const due = adding ? regions.filter((region) => !store.map.has(region)) : regions;
      try {
        if (adding) {
          for (const region of due) {
            // A failed change may be found at the next start: it has to be the same data that it finds.
            const bytes = Buffer.alloc(lengthOf(region), 100 + region);
            if (!store.tryWrite(bytes, 0, bytes.length, region * REGION))
              await store.write(bytes, 0, bytes.length, region * REGION);
          }
          await store.sync();
          await store.add(due);
          for (const region of due) kept.set(region, 100 + region);
        } else {
          await store.remove(due);
          for (const region of due) kept.delete(region);
        }
        for (const region of due) unsure.delete(region);
      } catch {
        for (const region of due) unsure.add(region);
        store.forgive();
      }
      folder.faults.decide = undefined;
      if (random.chance(0.25)) {
        if (random.chance(0.5)) folder.crash();
        else await store.close();
        store = await RegionStore.open(folder, NAME, identity);
        const found = new Map<number, number>();
        for (let region = 0; region < REGIONS; region++) {
          if (!store.map.has(region)) continue;
          found.set(region, 100 + region);
          if (!kept.has(region) && !unsure.has(region)) t.fail(`seed ${seed} step ${step}: ${region} came`);
        }
        for (const region of kept.keys())
          if (!found.has(region) && !unsure.has(region)) t.fail(`seed ${seed} step ${step}: ${region} went`);
        kept = found;
        unsure.clear();
      }
      for (let region = 0; region < REGIONS; region++) {
        if (store.map.has(region) !== kept.has(region)) t.fail(`seed ${seed} step ${step}: map of ${region}`);
        if (!kept.has(region)) continue;
        const bytes = Buffer.alloc(lengthOf(region));
        if (!store.tryRead(bytes, 0, bytes.length, region * REGION))
          await store.read(bytes, 0, bytes.length, region * REGION);
        if (!bytes.equals(Buffer.alloc(bytes.length, 100 + region)))
          t.fail(`seed ${seed} step ${step}: content of ${region}`);
      }
    }
    await store.close();
  }
  t.pass();
});

t.test('a bit never meets a full disk: the space of the map is taken at the start', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const store = await RegionStore.create(folder, NAME, identity);
  const bytes = Buffer.alloc(REGION, 1);
  await store.write(bytes, 0, REGION, 0);
  await store.sync();
  folder.faults.spaceSectors = folder.usedSectors();
  await t.rejects(store.write(bytes, 0, REGION, REGION), { code: 'disk' });
  await store.add([0]);
  await store.remove([0]);
  await store.punch(0, REGION);
  await store.write(bytes, 0, REGION, REGION);
  t.same(await store.extents(0, 3 * REGION, 9), [
    { lengthBytes: REGION, hole: true, zero: true },
    { lengthBytes: REGION, hole: false, zero: false },
    { lengthBytes: REGION, hole: true, zero: true },
  ]);
  await store.close();

  folder.faults.spaceSectors = folder.usedSectors() + 3;
  await t.rejects(RegionStore.create(folder, 'other', identity), { code: 'disk' });
  t.same(await folder.list(), [NAME], 'nothing is left');
});

t.test('ranges are those of the volume, and errors are told', async (t) => {
  const folder = new MemoryFolder(new Random(2));
  const store = await RegionStore.create(folder, NAME, identity);
  const bytes = Buffer.alloc(REGION);
  t.throws(() => store.tryRead(bytes, 0, REGION, identity.sizeBytes - 512), /bug/);
  t.throws(() => store.tryWrite(bytes, 0, 1, -1), /bug/);
  t.equal(store.failure, undefined);
  await store.write(bytes, 0, 512, 9 * REGION);
  folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
  await t.rejects(store.sync(), { code: 'disk', errno: 'EIO' });
  folder.faults.decide = undefined;
  t.match(store.failure, { code: 'disk' });
  await t.rejects(store.sync(), { code: 'disk' });
  store.forgive();
  await store.sync();
  await store.addRuns([{ first: 2, end: 4 }]);
  t.same([...store.map.runs()], [{ first: 2, end: 4 }]);
  await store.close();
});

t.test("another's store, a damaged one, a later version and a short file are refused", async (t) => {
  const folder = new MemoryFolder(new Random(3));
  await (await RegionStore.create(folder, NAME, identity)).close();
  await t.rejects(RegionStore.create(folder, NAME, identity), { code: 'exists' });
  await t.rejects(RegionStore.open(folder, 'none', identity), { code: 'not-found' });
  const others: StoreIdentity[] = [
    { ...identity, ownerId: randomUUID() },
    { ...identity, volumeId: randomUUID() },
    { ...identity, sizeBytes: identity.sizeBytes - 512 },
    { ...identity, regionBytes: 2 * REGION },
    { ...identity, sizeBytes: identity.sizeBytes + 512 },
  ];
  for (const other of others)
    await t.rejects(RegionStore.open(folder, NAME, other), { code: 'corrupt' }, JSON.stringify(other));
  const disk = await folder.open(NAME);
  const header = Buffer.alloc(storeHeaderLayout.span);
  await disk.read(header, 0, header.length, 0);
  const later = Buffer.from(header);
  storeHeaderLayout.encode({ ...storeHeaderLayout.decode(header), version: 2 }, later);
  seal(later);
  await disk.write(later, 0, later.length, 0);
  await disk.close();
  await t.rejects(RegionStore.open(folder, NAME, identity), { code: 'unsupported', message: /version 2/ });
  const again = await folder.open(NAME);
  await again.write(Buffer.from([1]), 0, 1, 20);
  await again.close();
  await t.rejects(RegionStore.open(folder, NAME, identity), { code: 'corrupt', message: /damaged/ });
  await again.close();
});

t.test('a damaged sector of the map makes its regions doubtful', async (t) => {
  const folder = new MemoryFolder(new Random(4));
  const store = await RegionStore.create(folder, NAME, identity);
  await store.add([1]);
  await store.close();
  const disk = await folder.open(NAME);
  await disk.write(Buffer.from([0xff]), 0, 1, STORE_MAP_OFFSET_BYTES + SECTOR_BYTES - 1);
  await disk.close();
  const again = await RegionStore.open(folder, NAME, identity);
  t.same(again.doubtful, [{ first: 0, end: REGIONS }]);
  await again.close();
});

t.test(
  'a terabyte in a real file: little is taken, and a region lies where it lies in the volume',
  async (t) => {
    const folder = await FileFolder.open(join(t.testdir(), 'group'));
    const large: StoreIdentity = { ...identity, sizeBytes: 1 * TIB, regionBytes: 64 * KIB };
    t.ok(storeDataStart(large) < 3 * MIB);
    const store = await RegionStore.create(folder, NAME, large);
    const bytes = new Random(9).bytes(64 * KIB);
    await store.write(bytes, 0, bytes.length, 1 * TIB - 64 * KIB);
    await store.sync();
    await store.add([large.sizeBytes / large.regionBytes - 1]);
    await store.close();
    const again = await RegionStore.open(folder, NAME, large);
    t.equal(again.map.count, 1);
    const back = Buffer.alloc(64 * KIB);
    await again.read(back, 0, back.length, 1 * TIB - 64 * KIB);
    t.ok(back.equals(bytes));
    t.same(await again.extents(0, 1 * MIB, 2), [{ lengthBytes: 1 * MIB, hole: true, zero: true }]);
    await again.close();
  },
);
