import t from 'tap';
import { GroupBench, REGION } from '../../fixtures/group-bench.ts';
import { Random } from '../../fixtures/random.ts';

t.test('writers notice nothing of a mode that comes and goes', async (t) => {
  const modes = new Set<string>();
  for (let seed = 1; seed <= 8; seed++) {
    const random = new Random(seed);
    const bench = await GroupBench.make({ seed, regions: 16 });
    bench.folder.faults.tryRefusal = 0.2;
    const model = Buffer.alloc(16 * REGION);
    let busy = 4;
    const writer = async (part: number): Promise<void> => {
      const start = part * 4 * REGION;
      for (let round = 1; round <= 25; round++) {
        const at = start + random.below(3 * REGION);
        const length = random.between(1, REGION);
        modes.add(bench.group.mode);
        if (random.chance(0.2)) {
          await bench.volume().trim(at, length);
          model.fill(0, at, at + length);
        } else {
          await bench.put(bench.volume(), Buffer.alloc(length, round), at);
          model.fill(round, at, at + length);
        }
        const seen = await bench.read(bench.volume(), start, 4 * REGION);
        if (!seen.equals(model.subarray(start, start + 4 * REGION))) throw new Error(`seed ${seed}: ${part}`);
        if (random.chance(0.2)) await bench.volume().flush();
        await bench.turns(random.below(30));
      }
      busy--;
    };
    const switcher = async (): Promise<void> => {
      for (let round = 0; busy > 0; round++) {
        await bench.group.createSnapshot(`s${round}`);
        await bench.turns(random.below(200));
        await bench.group.deleteSnapshot(`s${round}`);
        for (let turns = random.below(20); turns > 0; turns--) await bench.pass(10, 5);
      }
    };
    await Promise.all([0, 1, 2, 3].map(writer).concat(switcher()));
    await bench.volume().flush();
    bench.folder.faults.tryRefusal = 0;
    await bench.crash();
    if (!(await bench.read(bench.volume(), 0, 16 * REGION)).equals(model))
      throw new Error(`seed ${seed}: crash`);
  }
  t.same([...modes].sort(), ['direct', 'logged']);
});

t.test('what begins in one mode and ends in the other is whole', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const bytes = new Random(1).bytes(60 * REGION);
  // Larger than the ring takes at once: part of it waits while the group goes to direct mode.
  const write = bench.volume().write(bytes, 0, bytes.length, REGION);
  const zeroes = bench.volume().writeZeroes(62 * REGION, REGION, { mayPunch: false, fast: false });
  await bench.group.deleteSnapshot('s');
  for (let round = 0; round < 50; round++) await bench.pass(10, 5);
  await Promise.all([write, zeroes]);
  await bench.group.settled();
  t.equal(bench.group.mode, 'direct');
  t.ok((await bench.read(bench.volume(), REGION, bytes.length)).equals(bytes));
  await bench.volume().flush();
  await bench.crash();
  t.ok((await bench.read(bench.volume(), REGION, bytes.length)).equals(bytes));
});

t.test('while the kernel holds up writers they wait, and go on when it does not', async (t) => {
  const bench = await GroupBench.logged({ regions: 8 });
  bench.folder.faults.writersHeld = true;
  let written = false;
  const write = bench.write(0, 1).then(() => {
    written = true;
  });
  await bench.pass(50);
  t.equal(written, false);
  bench.folder.faults.writersHeld = false;
  await bench.pass(50);
  await write;
  t.equal((await bench.fills())[0], 1);
  t.notOk(bench.told.includes('log.full'));
});

t.test('a group whose log has failed refuses those who wait', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  bench.folder.hold('write', 'v.img');
  const writes: Promise<void>[] = [];
  for (let round = 0; !bench.told.includes('log.full'); round++) {
    writes.push(bench.write(round % 64, 1));
    await bench.pass(1, 1);
  }
  writes.push(bench.write(0, 2), bench.write(1, 2));
  bench.watch((operation, name) => (operation === 'write' && name === 'log.ring' ? 'EIO' : undefined));
  await bench.group.createSnapshot('x').catch(() => {});
  const results = await Promise.allSettled(writes);
  t.match(results.slice(-2), [
    { status: 'rejected', reason: { code: 'unavailable', errno: 'EIO' } },
    { status: 'rejected', reason: { code: 'unavailable', errno: 'EIO' } },
  ]);
});
