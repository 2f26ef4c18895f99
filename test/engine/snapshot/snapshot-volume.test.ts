import t from 'tap';
import type { BlockDevice } from '../../../engine/block-device.ts';
import { GroupBench, REGION } from '../../fixtures/group-bench.ts';
import { Random } from '../../fixtures/random.ts';

const REGIONS = 6;
/** The last region is short. */
const SIZE = REGIONS * REGION - 1024;

async function make(seed: number, detached: boolean): Promise<{ bench: GroupBench; model: Buffer }> {
  const bench = await GroupBench.make({ seed, regions: REGIONS, volumeBytes: SIZE });
  const model = new Random(seed).bytes(SIZE).fill(0, REGION, 3 * REGION);
  await bench.put(bench.volume(), model.subarray(0, REGION), 0);
  await bench.put(bench.volume(), model.subarray(3 * REGION), 3 * REGION);
  await bench.group.createSnapshot('s');
  if (detached) {
    await bench.group.detachSnapshot('s');
    await bench.group.settled();
  }
  return { bench, model };
}

async function isEqual(
  bench: GroupBench,
  device: BlockDevice,
  model: Buffer,
  random: Random,
): Promise<boolean> {
  const start = random.below(SIZE);
  const length = random.between(0, SIZE - start);
  const part = Buffer.alloc(length);
  if (!device.tryRead(part, 0, length, start)) await device.read(part, 0, length, start);
  const whole = await bench.read(bench.snapshot('s'), 0, SIZE);
  return part.equals(model.subarray(start, start + length)) && whole.equals(model);
}

/** The extents cover the range, and what is called zero reads as zeroes. */
async function checkExtents(device: BlockDevice, model: Buffer, label: string): Promise<void> {
  for (let at = 0; at < SIZE; ) {
    const extents = await device.allocation(at, SIZE - at, 3);
    if (extents.length === 0) throw new Error(`${label}: no extents`);
    for (const { lengthBytes, zero } of extents) {
      const bytes = model.subarray(at, at + lengthBytes);
      if (zero && !bytes.equals(Buffer.alloc(bytes.length)))
        throw new Error(`${label}: data at ${at} is called zero`);
      at += lengthBytes;
    }
  }
}

for (const detached of [false, true])
  t.test(`against a byte array: ${detached ? 'detached' : 'in the chain'}`, async (t) => {
    for (let seed = 1; seed <= 8; seed++) {
      const random = new Random(seed);
      const { bench, model } = await make(seed, detached);
      bench.folder.faults.tryRefusal = 0.3;
      const head = Buffer.from(await bench.read(bench.volume(), 0, SIZE));
      for (let step = 0; step < 40; step++) {
        const label = `seed ${seed}, step ${step}`;
        const device = bench.snapshot('s');
        const start = random.below(SIZE);
        const length = random.between(1, Math.min(SIZE - start, random.pick([100, 5000, 20_000])));
        const kind = random.below(6);
        if (kind < 2) {
          const bytes = Buffer.alloc(length, 1 + step);
          await bench.put(device, bytes, start);
          bytes.copy(model, start);
        } else if (kind === 2) {
          await device.trim(start, length);
          model.fill(0, start, start + length);
        } else if (kind === 3) {
          await device.writeZeroes(start, length, { mayPunch: random.chance(0.5), fast: false });
          model.fill(0, start, start + length);
        } else if (kind === 4) {
          const bytes = Buffer.alloc(length, 200);
          await bench.put(bench.volume(), bytes, start);
          bytes.copy(head, start);
          if (random.chance(0.5)) await bench.pass(60);
        } else if (random.chance(0.3)) {
          await device.flush();
          await bench.volume().flush();
          bench.folder.faults.tryRefusal = 0;
          await bench.crash();
          bench.folder.faults.tryRefusal = 0.3;
        }
        if (!(await isEqual(bench, bench.snapshot('s'), model, random))) throw new Error(label);
        if (!(await bench.read(bench.volume(), 0, SIZE)).equals(head))
          throw new Error(`${label}: the volume`);
        await checkExtents(bench.snapshot('s'), model, label);
        await checkExtents(bench.volume(), head, `${label}: the volume`);
      }
    }
    t.pass();
  });

t.test('what it is, and what it refuses', async (t) => {
  const { bench } = await make(1, false);
  const device = bench.snapshot('s');
  t.match(device, { sizeBytes: SIZE, regionBytes: REGION, readOnly: false, failure: undefined });
  t.equal(device.tryWrite(Buffer.alloc(8), 0, 8, 0), false, 'every write may have to copy');
  t.throws(() => device.tryRead(Buffer.alloc(8), 0, 8, SIZE - 4), /bug/);
  await t.rejects(device.writeZeroes(0, 8, { mayPunch: true, fast: true }), {
    code: 'disk',
    errno: 'ENOTSUP',
  });
  await device.prefetch(0, SIZE);
  device.settle();
  await device.write(Buffer.alloc(0), 0, 0, SIZE);
  await device.trim(SIZE, 0);
  t.equal(bench.group.snapshots[0]?.volumes[0]?.modifiedRegions, 0);
  t.equal(bench.snapshot('s'), device, 'all sessions share one');
  await bench.group.deleteSnapshot('s');
  const gone = { code: 'unavailable', errno: 'ESHUTDOWN' };
  await t.rejects(device.read(Buffer.alloc(8), 0, 8, 0), gone);
  await t.rejects(device.write(Buffer.alloc(8), 0, 8, 0), gone);
  await t.rejects(device.flush(), gone);
  t.throws(() => device.tryRead(Buffer.alloc(8), 0, 8, 0), gone);
});

t.test(
  'L6: what is written through it is in no log: after a failed sync it takes no more, and is read on',
  async (t) => {
    const { bench, model } = await make(1, false);
    const device = bench.snapshot('s');
    await bench.put(device, Buffer.alloc(10, 9), 5);
    await device.flush();
    await bench.put(device, Buffer.alloc(10, 8), 5);
    bench.watch((operation, name) =>
      operation === 'sync' && name.endsWith('.modified') ? 'EIO' : undefined,
    );
    await t.rejects(device.flush(), { code: 'unavailable', errno: 'EIO' });
    bench.folder.faults.decide = undefined;
    t.match(device.failure, /takes no more writes/);
    await t.rejects(device.write(Buffer.alloc(8), 0, 8, 0), { code: 'unavailable', errno: 'EIO' });
    model.fill(8, 5, 15);
    t.ok((await bench.read(device, 0, SIZE)).equals(model));
    t.equal(bench.group.failure, undefined, 'the group goes on');
    await bench.write(0, 1);
  },
);

t.test('writes at once to different places of one region both count', async (t) => {
  const { bench, model } = await make(1, false);
  const device = bench.snapshot('s');
  const places = Array.from({ length: 16 }, (_, index) => index * 256);
  await Promise.all(places.map((at, index) => device.write(Buffer.alloc(256, index + 1), 0, 256, at)));
  places.forEach((at, index) => {
    model.fill(index + 1, at, at + 256);
  });
  t.ok((await bench.read(device, 0, SIZE)).equals(model));
});

t.test('a write that a crash cuts short is there whole, or not at all', async (t) => {
  let kept = 0;
  for (let seed = 1; seed <= 36; seed++) {
    const cut = 1 + (seed % 6);
    const { bench, model } = await make(seed, seed % 4 === 0);
    await bench.put(bench.snapshot('s'), Buffer.alloc(10, 7), 5);
    await bench.snapshot('s').flush();
    model.fill(7, 5, 15);
    bench.cutAt(cut);
    const at = 3 * REGION + 10;
    const write = bench.snapshot('s').write(Buffer.alloc(20, 9), 0, 20, at);
    await Promise.race([write.catch(() => {}), bench.turns(2000)]);
    await bench.crash();
    const found = await bench.read(bench.snapshot('s'), 0, SIZE);
    const isThere = found[at] === 9;
    if (isThere) kept++;
    t.ok(found.equals(isThere ? Buffer.from(model).fill(9, at, at + 20) : model), `cut ${cut}, seed ${seed}`);
  }
  t.ok(kept > 0);
});

/** A snapshot leaves the chain, and what the volume has in a region of it goes, while `ask` waits for the volume's disk. */
async function whileDetached<T>(
  operation: 'read' | 'extents',
  ask: (device: BlockDevice) => Promise<T>,
): Promise<{ answer: T; state: string | undefined; model: Buffer }> {
  const { bench, model } = await make(1, false);
  const release = bench.folder.hold(operation, 'v.img', 1);
  const asking = ask(bench.snapshot('s'));
  await bench.turns();
  await bench.group.detachSnapshot('s');
  await bench.pass(100);
  const { state } = bench.group.snapshots[0] ?? { state: undefined };
  await bench.volume().trim(4 * REGION, REGION);
  await bench.pass(100);
  release();
  return { answer: await asking, state, model };
}

t.test('who reads while it leaves the chain reads what it has', async (t) => {
  const bytes = Buffer.alloc(REGION);
  const { state, model } = await whileDetached('read', (device) => device.read(bytes, 0, REGION, 4 * REGION));
  t.equal(state, 'detached');
  t.ok(bytes.equals(model.subarray(4 * REGION, 5 * REGION)));
});

t.test('who asks for extents while it leaves the chain is told of what it has', async (t) => {
  const asked = await whileDetached('extents', (device) => device.allocation(4 * REGION, REGION, 1));
  t.equal(asked.state, 'detached');
  t.same(asked.answer, [{ lengthBytes: REGION, hole: false, zero: false }]);
});
