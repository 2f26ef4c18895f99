/** The payload of batches in memory: who uses it has it until he has ended, whoever lets go of it meanwhile, and whatever its memory is for then. */
import t from 'tap';
import { GroupBench, REGION } from '../../fixtures/group-bench.ts';

/** Regions of a write that has a slab of the smallest ring to itself. */
const SLAB = 15;

const slabOf = (fill: number): number[] => Array<number>(SLAB).fill(fill);

/** A reader that is held up begins to read. Returns what it reads, and lets go of it when it is called. */
async function slowReader(bench: GroupBench, first: number): Promise<() => Promise<Buffer>> {
  const release = bench.folder.hold('read', 'v.img', 1);
  const reading = bench.read(bench.snapshot('s'), first * REGION, REGION);
  await bench.turns();
  return async () => {
    release();
    return await reading;
  };
}

t.test('a reader of pending records has them until it has ended', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  await bench.write(0, 1, SLAB);
  const release = bench.folder.hold('read', 'v.img', 1);
  const reading = bench.read(bench.volume(), 0, SLAB * REGION);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, SLAB), slabOf(1), 'applied while it waits');
  const writes: Promise<void>[] = [];
  for (let fill = 2; fill < 10; fill++) {
    writes.push(bench.write(16 * (fill % 4), fill, SLAB));
    await bench.pass(2000, 100);
  }
  release();
  t.same(await reading, Buffer.alloc(SLAB * REGION, 1), 'it reads what it began to read');
  t.ok(bench.told.includes('log.full'), 'and space of the log was not used again before');
  await bench.pass(2000);
  await Promise.all(writes);
  await bench.group.settled();
  t.equal(bench.group.failure, undefined);
});

t.test('a batch that memory is short of is not let go of while it is applied', async (t) => {
  const bench = await GroupBench.logged({ regions: 64, group: { memoryBytes: 4096 } });
  await bench.write(0, 1, SLAB);
  await bench.volume().flush();
  const release = bench.folder.hold('write', 'v.img', 1);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, SLAB), slabOf(0), 'it is about to be written');
  for (const fill of [2, 3]) await bench.write(16 * (fill - 1), fill, SLAB);
  release();
  await bench.turns();
  t.same(bench.rawFills().slice(0, SLAB), slabOf(1));
});

t.test('a batch that was let go of is not taken up again: memory is short', async (t) => {
  const bench = await GroupBench.logged({ regions: 64, group: { memoryBytes: 4096 } });
  await bench.write(0, 1, SLAB);
  await bench.volume().flush();
  const readOn = await slowReader(bench, 60);
  await bench.write(16, 2, SLAB);
  const release = bench.folder.hold('write', 'v.img', 1);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, SLAB), slabOf(0), 'it is about to be written');
  await readOn();
  await bench.turns();
  await bench.write(32, 3, SLAB);
  release();
  await bench.turns();
  t.same(bench.rawFills().slice(0, SLAB), slabOf(1));
  await bench.group.settled();
  t.same((await bench.fills()).slice(16, 16 + SLAB), slabOf(2));
  t.same((await bench.fills()).slice(32, 32 + SLAB), slabOf(3));
});

t.test('memory stays within its bound while a unit takes long to be applied', async (t) => {
  const bench = await GroupBench.logged({
    regions: 256,
    logBytes: 2048 * 1024,
    group: { memoryBytes: 4096 },
  });
  await bench.write(0, 1, SLAB);
  await bench.volume().flush();
  const release = bench.folder.hold('write', 'v.img', 1);
  await bench.pass(60);
  const slabBytes = bench.group.memory.payloadBytes;
  for (let fill = 2; fill < 26; fill++) {
    await bench.write(16 * (fill % 16), fill, SLAB);
    await bench.volume().flush();
  }
  const { payloadBytes } = bench.group.memory;
  t.ok(slabBytes > 0 && bench.group.log.usedBytes > 2 * slabBytes, 'much is logged');
  t.ok(payloadBytes <= 2 * slabBytes, `${payloadBytes} bytes, where the unit has a slab of ${slabBytes}`);
  release();
  await bench.group.settled();
  t.same((await bench.fills()).slice(16 * 9, 16 * 9 + SLAB), slabOf(25));
});

t.test('L6: a batch that was let go of is not taken up again: it is applied once more', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  await bench.write(0, 1, SLAB);
  await bench.volume().flush();
  const readOn = await slowReader(bench, 60);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, SLAB), slabOf(1), 'applied, and let go of when the reader has ended');
  let failures = 1;
  bench.folder.faults.lostOnFailedSync = true;
  bench.watch((operation, name) =>
    operation === 'sync' && name.endsWith('v.img') && failures-- > 0 ? 'EIO' : undefined,
  );
  const release = bench.folder.hold('write', 'v.img', 1);
  await bench.pass(2500);
  t.ok(
    failures < 1 && bench.group.log.appliedLsn < bench.group.log.endLsn,
    'it is about to be written again',
  );
  await readOn();
  await bench.turns();
  await bench.write(16, 2, SLAB);
  release();
  await bench.turns();
  t.same(bench.rawFills().slice(0, SLAB), slabOf(1));
  await bench.pass(2500);
  await bench.group.settled();
  t.equal(bench.group.stall, undefined);
  await bench.crash();
  t.same((await bench.fills()).slice(0, SLAB), slabOf(1));
});
