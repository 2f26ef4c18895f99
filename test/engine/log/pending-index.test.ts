import t from 'tap';
import { PendingIndex } from '../../../engine/log/pending-index.ts';
import { LogBatch, type LogRecord } from '../../../engine/log/record.ts';
import { Random } from '../../fixtures/random.ts';

const REGION = 64;
const REGIONS = 8;
const SIZE = REGION * REGIONS;

function record(lsn: number, offsetBytes: number, lengthBytes: number, value: number): LogRecord {
  const batch = new LogBatch(lsn, lsn + 1);
  batch.bytes = Buffer.alloc(lengthBytes, value);
  return { batch, volumeIndex: 0, offsetBytes, lengthBytes, zeroes: false, mayPunch: false, dataStart: 0 };
}

/** The volume as whoever sees these LSNs sees it: `raw` with what is pending over it. */
function view(index: PendingIndex, raw: Buffer, lsns: readonly number[]): Buffer {
  const bytes = Buffer.from(raw);
  for (let region = 0; region < REGIONS; region++) {
    const start = region * REGION;
    for (const { batch, offsetBytes, lengthBytes } of index.inRegion(region, lsns, start, REGION)) {
      const from = Math.max(start, offsetBytes);
      const end = Math.min(start + REGION, offsetBytes + lengthBytes);
      batch.bytes?.copy(bytes, from, from - offsetBytes, end - offsetBytes);
    }
  }
  return bytes;
}

t.test('against a byte array for each point of the log', async (t) => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = new Random(seed);
    const index = new PendingIndex(REGION, REGIONS);
    const raw = Buffer.alloc(SIZE);
    const queue: LogRecord[] = [];
    const head = Buffer.alloc(SIZE);
    const nodes: { lsn: number; image: Buffer }[] = [];
    const nodeLsns = [-1];
    for (let lsn = 1; lsn <= 80; lsn++) {
      const kind = random.below(10);
      if (kind === 0) {
        index.nodeAppended(lsn);
        nodes.push({ lsn, image: Buffer.from(head) });
        nodeLsns.push(lsn);
      } else if (kind < 4) {
        const oldest = queue.shift();
        if (oldest === undefined) continue;
        // What a snapshot would lose is out of its sight by now: the applier has preserved it.
        nodes.splice(0, nodes.findLastIndex((node) => node.lsn < oldest.batch.lsn) + 1);
        oldest.batch.bytes?.copy(raw, oldest.offsetBytes);
        index.remove(oldest);
      } else {
        const offsetBytes = random.below(SIZE);
        const next = record(lsn, offsetBytes, random.between(1, SIZE - offsetBytes), lsn);
        queue.push(next);
        index.add(next);
        next.batch.bytes?.copy(head, offsetBytes);
      }
      if (!view(index, raw, [-1, Number.POSITIVE_INFINITY]).equals(head))
        throw new Error(`seed ${seed}: head`);
      for (const node of nodes)
        if (!view(index, raw, [-1, node.lsn]).equals(node.image))
          throw new Error(`seed ${seed}: ${node.lsn}`);
      for (let region = 0; region < REGIONS; region++) {
        const touching = queue.filter(
          ({ offsetBytes, lengthBytes }) =>
            offsetBytes < (region + 1) * REGION && offsetBytes + lengthBytes > region * REGION,
        );
        if (index.has(region) !== touching.length > 0) throw new Error(`seed ${seed}: has ${region}`);
        for (let nth = 0; nth < 3; nth++) {
          const above = random.pick(nodeLsns);
          const below = random.chance(0.3) ? Number.POSITIVE_INFINITY : random.pick(nodeLsns);
          const wanted = touching.some(({ batch }) => batch.lsn > above && batch.lsn < below);
          const found = index.regionsBetween(above, below).some((map) => map.has(region));
          if (found !== wanted) throw new Error(`seed ${seed}: region ${region} from ${above} to ${below}`);
        }
      }
      if (index.isEmpty !== (queue.length === 0)) throw new Error(`seed ${seed}: empty`);
      if (index.regionsBetween(-1, Number.POSITIVE_INFINITY).length > nodes.length + 1)
        throw new Error(`seed ${seed}: maps of nothing`);
    }
  }
  t.pass();
});

t.test('what is written over and over takes one place, unless a node lies between', async (t) => {
  const index = new PendingIndex(REGION, REGIONS);
  const seen = () => index.inRegion(0, [-1, 1000], 0, REGION).map(({ batch }) => batch.lsn);
  for (let lsn = 1; lsn <= 50; lsn++) index.add(record(lsn, 0, REGION, 1));
  t.same(seen(), [50]);
  index.nodeAppended(51);
  index.add(record(52, 0, REGION, 1));
  index.add(record(53, 0, REGION, 1));
  t.same(seen(), [50, 53]);
  index.add(record(54, 1, 10, 1));
  t.same(seen(), [50, 53, 54], 'a smaller one covers nothing');
  t.same(
    index.inRegion(0, [-1, 51, 53, 1000], 0, REGION).map(({ batch }) => batch.lsn),
    [50, 54],
    'bounds are pairs, both exclusive',
  );
  t.same(
    index.inRegion(0, [-1, 1000], 11, 5).map(({ batch }) => batch.lsn),
    [50, 53],
  );
  index.clear();
  t.ok(index.isEmpty);
  index.add(record(60, 0, REGION, 1));
  index.add(record(61, 0, REGION, 1));
  t.same(seen(), [61]);
});

t.test('what was pending before a start is above the snapshots from before it', async (t) => {
  const index = new PendingIndex(REGION, REGIONS);
  index.add(record(60, 0, REGION, 1));
  index.nodeAppended(70);
  index.add(record(71, REGION, REGION, 1));
  const between = (above: number, below: number) =>
    index.regionsBetween(above, below).flatMap((map) => [...map.runs()]);
  t.same(between(50, 70), [{ first: 0, end: 1 }], 'the snapshot at 50 was applied, its record is not here');
  t.same(between(70, Number.POSITIVE_INFINITY), [{ first: 1, end: 2 }]);
  index.clear();
  t.same(between(-1, Number.POSITIVE_INFINITY), []);
});
