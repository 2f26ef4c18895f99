import { test } from 'tap';
import { Random } from '../fixtures/random.ts';
import { Scheduler } from './scheduler.ts';
import { SECTOR_BYTES } from './sim-medium.ts';
import { type Fault, Storage, type Traits } from './storage.ts';

const TRAITS: Traits = { tryRefusal: 0, tearing: 0.5, zeroesFast: true, lostAtFailedSync: 0.5 };
const SECTORS = 32;

function storage(seed: number): Storage {
  return new Storage(new Scheduler(new Random(seed)), TRAITS);
}

/** Steps until the promise has settled. */
async function settle<T>(machine: Storage, promise: Promise<T>): Promise<T> {
  let settled = false;
  const end = (): void => {
    settled = true;
  };
  promise.then(end, end);
  const { scheduler } = machine;
  if (!(scheduler instanceof Scheduler)) throw new Error('bug: the only machine has the scheduler itself');
  while (!settled && (await scheduler.step()));
  return await promise;
}

const sectors = (count: number, value: number): Buffer => Buffer.alloc(count * SECTOR_BYTES, value);

async function disk(machine: Storage) {
  return await settle(machine, machine.folder().create('volumes/v0.img', SECTORS * SECTOR_BYTES));
}

/** The value that each sector is filled with; -1 for a torn one. */
async function look(machine: Storage): Promise<number[]> {
  const opened = await settle(machine, machine.folder().open('volumes/v0.img'));
  const bytes = sectors(SECTORS, 255);
  await settle(machine, opened.read(bytes, 0, bytes.length, 0));
  return Array.from({ length: SECTORS }, (_, sector) => {
    const one = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    return one.every((byte) => byte === one[0]) ? (one[0] ?? -1) : -1;
  });
}

test('what was synced is there after a power cut; of what was not, each sector has one of its versions', async (t) => {
  const seen = new Set<number>();
  for (let seed = 0; seed < 60; seed++) {
    const machine = storage(seed);
    const opened = await disk(machine);
    await settle(machine, opened.write(sectors(SECTORS, 1), 0, SECTORS * SECTOR_BYTES, 0));
    await settle(machine, opened.sync());
    await settle(machine, opened.write(sectors(8, 2), 0, 8 * SECTOR_BYTES, 0));
    await settle(machine, opened.write(sectors(8, 3), 0, 8 * SECTOR_BYTES, 0));
    machine.kill(true);
    const found = await look(machine);
    t.ok(
      found.slice(8).every((value) => value === 1),
      'what was synced',
    );
    for (const value of found.slice(0, 8)) seen.add(value);
  }
  t.same([...seen].sort(), [1, 2, 3], 'every version of the rest, and no torn sector');
});

test('a process that is killed leaves the page cache, and perhaps what it had under way', async (t) => {
  const seen = new Set<number | undefined>();
  for (let seed = 0; seed < 40; seed++) {
    const machine = storage(seed);
    const opened = await disk(machine);
    await settle(machine, opened.write(sectors(1, 1), 0, SECTOR_BYTES, 0));
    opened.write(sectors(1, 2), 0, SECTOR_BYTES, SECTOR_BYTES).catch(() => {});
    machine.kill(false);
    const found = await look(machine);
    t.equal(found[0], 1);
    seen.add(found[1]);
  }
  t.same([...seen].sort(), [0, 2]);
});

test('a failed sync loses some now, some later, and a later sync does not bring it back', async (t) => {
  const fault: Fault = { operation: 'sync', file: 'volume', times: 1 };
  const now = new Set<number>();
  const later = new Set<number>();
  for (let seed = 0; seed < 40; seed++) {
    const machine = storage(seed);
    const opened = await disk(machine);
    await settle(machine, opened.write(sectors(8, 1), 0, 8 * SECTOR_BYTES, 0));
    machine.faults.push({ ...fault });
    await t.rejects(settle(machine, opened.sync()), { code: 'disk', errno: 'EIO' });
    await t.rejects(settle(machine, opened.sync()), { code: 'disk' }, 'it is not tried again');
    opened.forgive();
    await settle(machine, opened.sync());
    machine.kill(false);
    for (const value of (await look(machine)).slice(0, 8)) now.add(value);
    machine.kill(true);
    const last = (await look(machine)).slice(0, 8);
    for (const value of last) later.add(value);
  }
  t.same([...now].sort(), [0, 1]);
  t.same([...later].sort(), [0, 1]);
});

test('space counts what is allocated, comes back with holes and removals, and is refused beyond its end', async (t) => {
  const machine = storage(1);
  const opened = await disk(machine);
  machine.limitSpace(2);
  await settle(machine, opened.zero(0, 8192, true));
  await t.rejects(settle(machine, opened.write(sectors(1, 1), 0, SECTOR_BYTES, 8192)), {
    code: 'disk',
    errno: 'ENOSPC',
  });
  await settle(machine, opened.write(sectors(1, 1), 0, SECTOR_BYTES, 4096));
  await settle(machine, opened.punch(0, 4096));
  t.equal(machine.freePages, 1);
  t.same(await settle(machine, opened.extents(0, 12288, 8)), [
    { lengthBytes: 4096, hole: true, zero: true },
    { lengthBytes: 4096, hole: false, zero: false },
    { lengthBytes: 4096, hole: true, zero: true },
  ]);
  await settle(machine, opened.write(sectors(1, 1), 0, SECTOR_BYTES, 8192));
  t.equal((await settle(machine, machine.folder().space())).freeBytes, 0);
  await settle(machine, opened.close());
  await settle(machine, machine.folder().remove('volumes/v0.img'));
  t.equal(machine.space.usedPages, 0);
});

test('a hole that ends inside a sector leaves the rest of it, also when it is made again', async (t) => {
  const machine = storage(1);
  const opened = await disk(machine);
  await settle(machine, opened.write(sectors(8, 1), 0, 8 * SECTOR_BYTES, 0));
  await settle(machine, opened.sync());
  for (let time = 0; time < 2; time++) {
    await settle(machine, opened.punch(0, 8 * SECTOR_BYTES - 256));
    await settle(machine, opened.sync());
  }
  // What the cache has of a page is looked up on the disk only where something was under way.
  await settle(machine, opened.write(sectors(1, 2), 0, SECTOR_BYTES, 0));
  machine.kill(true);
  const again = await settle(machine, machine.folder().open('volumes/v0.img'));
  const last = sectors(1, 255);
  await settle(machine, again.read(last, 0, SECTOR_BYTES, 7 * SECTOR_BYTES));
  t.same([last[0], last[255], last[256], last[511]], [0, 0, 1, 1]);
});
