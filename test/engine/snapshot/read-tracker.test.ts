import t from 'tap';
import { ReadTracker } from '../../../engine/snapshot/read-tracker.ts';
import { settle } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

t.test('drained waits for the reads that had begun, and for no others', async (t) => {
  const tracker = new ReadTracker();
  await tracker.drained();
  const before = tracker.begin();
  let drained = false;
  const waiting = tracker.drained().then(() => {
    drained = true;
  });
  const later = tracker.begin();
  await settle();
  t.equal(drained, false);
  tracker.end(before);
  await waiting;
  t.equal(drained, true);
  tracker.end(later);
  await tracker.drained();
});

t.test('at random, against counting', async (t) => {
  for (let seed = 1; seed <= 50; seed++) {
    const random = new Random(seed);
    const tracker = new ReadTracker();
    let next = 0;
    const reads: { id: number; epoch: ReturnType<ReadTracker['begin']> }[] = [];
    const waits: { until: number; done: boolean }[] = [];
    for (let step = 0; step < 200; step++) {
      const kind = random.below(3);
      if (kind === 0) reads.push({ id: next++, epoch: tracker.begin() });
      else if (kind === 1) {
        const [read] = reads.splice(random.below(reads.length), 1);
        if (read !== undefined) tracker.end(read.epoch);
      } else if (random.chance(0.3)) {
        const wait = { until: next, done: false };
        waits.push(wait);
        void tracker.drained().then(() => {
          wait.done = true;
        });
      }
      await settle(5);
      for (const { until, done } of waits)
        if (done !== !reads.some(({ id }) => id < until) && done) throw new Error(`seed ${seed}: too early`);
    }
    for (const { epoch } of reads) tracker.end(epoch);
    await settle(5);
    if (waits.some(({ done }) => !done)) throw new Error(`seed ${seed}: one waits for ever`);
  }
  t.pass();
});
