import t from 'tap';
import { LOG_SECTOR_BYTES } from '../../../engine/units.ts';
import { GroupBench } from '../../fixtures/group-bench.ts';

/** Writes `count` regions, so many at a time. */
function write(bench: GroupBench, count: number, atATime: number): Promise<unknown> {
  let left = count;
  const writer = async (): Promise<void> => {
    while (left-- > 0) await bench.write(left % bench.regions, 1);
  };
  return Promise.all(Array.from({ length: atATime }, writer));
}

function times(bench: GroupBench, type: string): number {
  return bench.told.filter((told) => told === type).length;
}

/** Passes time until the promise has settled. */
async function passUntil(bench: GroupBench, promise: Promise<unknown>, stepMs = 1): Promise<void> {
  let settled = false;
  void promise.then(() => {
    settled = true;
  });
  while (!settled) await bench.pass(stepMs, stepMs);
}

t.test('a small log that is filled and emptied all the time is told of as full once', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const { endLsn, sizeBytes } = bench.group.log;
  const startMs = bench.clock.nowMs();
  await passUntil(bench, write(bench, 4000, 4), 100);
  t.ok((bench.group.log.endLsn - endLsn) * LOG_SECTOR_BYTES > 10 * sizeBytes, 'it was full many times over');
  t.ok(bench.clock.nowMs() - startMs > 3000, 'for long');
  t.equal(times(bench, 'log.full'), 1);
  t.equal(times(bench, 'log.room'), 0, 'the last writer has waited a moment ago');
  await bench.pass(1100);
  t.equal(times(bench, 'log.room'), 1);
  await passUntil(bench, write(bench, 1000, 4));
  await bench.pass(1100);
  t.same([times(bench, 'log.full'), times(bench, 'log.room')], [2, 2], 'and again');
});

t.test('a log has room again when an eighth of it is free', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  let isStuck = true;
  bench.watch((operation, name) =>
    isStuck && operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined,
  );
  const writes: Promise<void>[] = [];
  const isLittle = () => bench.group.log.usedBytes > (1 - 1 / 4 - 1 / 8) * bench.group.log.sizeBytes;
  for (let round = 0; round < 80; round++) {
    writes.push(bench.write(round % 64, 2));
    await bench.pass(1, 1);
  }
  t.equal(times(bench, 'log.full'), 1);
  isStuck = false;
  const stuckAgain = Promise.all(writes).then(() => {
    isStuck = true;
  });
  await passUntil(bench, stuckAgain);
  t.ok(isLittle(), 'nobody waits, and the room is little');
  await bench.pass(5000);
  t.ok(isLittle(), 'nothing has changed');
  t.equal(times(bench, 'log.room'), 0);
  isStuck = false;
  await bench.pass(5000);
  t.equal(times(bench, 'log.room'), 1);
});

t.test('a group that has closed tells of no room', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  await passUntil(bench, write(bench, 200, 4));
  t.equal(times(bench, 'log.full'), 1);
  await bench.group.close();
  await bench.pass(5000);
  t.equal(times(bench, 'log.room'), 0);
});
