/** The rules L7 to L12 of the design, each by its name, on the engine as a whole. `test/engine/log/` has the log alone. */
import t from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import { checkLogSize } from '../../../engine/group-spec.ts';
import { KIB, LOG_SECTOR_BYTES, MIB } from '../../../engine/units.ts';
import { GroupBench, inOrder, REGION, times } from '../../fixtures/group-bench.ts';
import { append, LogBench } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

t.test('L7: log space is reused only after the superblock that frees it is durable', async (t) => {
  for (let seed = 1; seed <= 2; seed++) {
    const bench = await GroupBench.logged({ seed, regions: 64 });
    const ringSectors = bench.group.log.sizeBytes / LOG_SECTOR_BYTES;
    const startLsn = bench.group.log.endLsn;
    let most = 0;
    bench.watch((operation, name) => {
      if (operation === 'write' && name === 'log.ring')
        most = Math.max(most, bench.group.log.endLsn - bench.durableTailLsn());
      return undefined;
    });
    const model = Array<number>(64).fill(0);
    const writes: Promise<void>[] = [];
    for (let round = 0; round < 300; round++) {
      const region = bench.random.below(64);
      model[region] = 1 + (round % 255);
      writes.push(bench.write(region, model[region] ?? 0));
      // So often that some come while a superblock is on its way.
      await bench.turns(bench.random.below(12));
      bench.clock.advance(1);
    }
    await bench.pass(100, 1);
    await Promise.all(writes);
    t.ok(bench.group.log.endLsn - startLsn > 3 * ringSectors, 'the ring was gone round three times');
    t.ok(most <= ringSectors, `seed ${seed}: ${most} of ${ringSectors} sectors`);
    await bench.volume().flush();
    await bench.crash();
    t.same(await bench.fills(), model);
  }
});

/** Writes until writers wait, with nothing applied; returns the writes. */
async function fill(bench: GroupBench): Promise<Promise<void>[]> {
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined));
  const writes: Promise<void>[] = [];
  for (let region = 0; !bench.told.includes('log.full'); region++) {
    if (region > 200) throw new Error('the log is never full');
    writes.push(bench.write(region % bench.regions, 1 + region));
    await bench.pass(1, 1);
  }
  return writes;
}

/** Lets what is logged be applied. */
async function release(bench: GroupBench): Promise<void> {
  bench.folder.faults.decide = undefined;
  await bench.pass(2000);
}

t.test(
  'L7: a share of the ring is for control records; one that finds no room is refused at once',
  async (t) => {
    const bench = await GroupBench.logged({ regions: 64 });
    const writes = await fill(bench);
    await bench.group.createSnapshot('full');
    t.equal(bench.group.snapshots.length, 2, 'while writers wait');
    let refusal: unknown;
    for (let round = 0; refusal === undefined && round < 250; round++)
      await bench.group.createSnapshot(`s${round}`).catch((error: unknown) => {
        refusal = error;
      });
    t.match(refusal, {
      code: 'unavailable',
      errno: 'ENOSPC',
      message: /the log is full, also the room kept/,
    });
    const names = bench.group.snapshots.length;
    t.ok(names > 100, `the share takes ${names} of them`);
    await bench.group.deleteSnapshot('full');
    t.equal(bench.group.snapshots.length, names - 1, 'a name is taken away all the same');
    await release(bench);
    await Promise.all(writes);
    await bench.group.settled();
    t.equal(bench.group.log.appliedLsn, bench.group.log.endLsn);
    await bench.group.createSnapshot('again');
  },
);

t.test('L7: space that cannot be freed is tried again after a while', async (t) => {
  const bench = await GroupBench.logged({ regions: 16 });
  const { usedBytes } = bench.group.log;
  await bench.write(0, 1, 10);
  await bench.pass(1000);
  // Behind the checkpoint comes something that is not durable yet: the superblock needs what stands there.
  const release = bench.folder.hold('sync', 'log.ring', 1);
  await bench.write(11, 1);
  let tries = 0;
  bench.watch((operation, name) =>
    operation === 'read' && name === 'log.ring' && ++tries < 100 ? 'EIO' : undefined,
  );
  await bench.pass(200);
  release();
  await bench.turns();
  t.equal(tries, 1);
  await bench.pass(1000);
  t.equal(tries, 2);
  t.ok(bench.group.log.usedBytes > usedBytes + 10 * REGION);
  bench.folder.faults.decide = undefined;
  await bench.pass(1100);
  t.ok(bench.group.log.usedBytes <= usedBytes + 2 * REGION);
});

t.test('L7: a ring that could not take a full map is refused', async (t) => {
  const volumes = [{ sizeBytes: 4096 * MIB }];
  t.throws(() => checkLogSize(256 * KIB, volumes, 4 * KIB), { code: 'invalid', message: /too small/ });
  // One that is accepted takes a restore of everything, at any place of the ring.
  const bench = await GroupBench.make({ regions: 4 });
  for (let round = 0; round < 60; round++) {
    await bench.write(round % 4, 1 + round);
    await bench.group.createSnapshot('s');
    await bench.group.restore('s');
    await bench.group.deleteSnapshot('s');
    await bench.group.settled();
  }
  t.pass();
});

t.test('L8: a write larger than a record becomes several, in order', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const bytes = new Random(3).bytes(150 * KIB);
  const write = bench.volume().write(bytes, 0, bytes.length, 5 * KIB);
  await bench.pass(20);
  await write;
  const isThere = async () => (await bench.read(bench.volume(), 5 * KIB, bytes.length)).equals(bytes);
  t.ok(await isThere(), 'pending');
  await bench.group.settled();
  t.ok(await isThere(), 'applied');
});

for (const [label, firstLsn] of [
  ['2^44', 2 ** 44 - 100],
  ['2^53', 2 ** 53 - 20_000],
] as const)
  t.test(`L8: a group works just below LSN ${label}`, async (t) => {
    const bench = await GroupBench.logged({ regions: 16, group: { firstLsn } });
    const model = Array<number>(16).fill(0);
    for (let round = 1; round <= 60; round++) {
      const region = bench.random.below(16);
      model[region] = round;
      const write = bench.write(region, round);
      await bench.pass(1, 1);
      await write;
      if (round % 20 !== 0) continue;
      await bench.group.createSnapshot(`s${round}`);
      await bench.crash();
      t.same(await bench.fills(), model);
      if (round % 40 === 0) await bench.group.settled();
      t.same(await bench.fills(bench.snapshot(`s${round}`)), model);
    }
    t.ok(Number.isSafeInteger(bench.group.log.endLsn) && bench.group.log.endLsn > firstLsn + 100);
  });

t.test('L8: rings of different size hold the same bytes', async (t) => {
  const logs = [];
  for (const ringBytes of [256 * KIB, 512 * KIB]) {
    const bench = await LogBench.make({ ringBytes, firstLsn: 500 });
    logs.push({ bench, log: await bench.openForWriting(500) });
  }
  for (let round = 0; round < 60; round++) {
    for (const { log } of logs) {
      append(log, 1 + ((round * 977) % 9000), round);
      await log.sync();
      if (round === 30) await log.free(log.endLsn);
    }
  }
  const [small, large] = logs;
  if (small === undefined || large === undefined) throw new Error('two logs');
  t.equal(small.log.endLsn, large.log.endLsn);
  t.ok(small.log.endLsn - 500 > 512, 'the smaller ring has wrapped');
  for (let lsn = small.log.tailLsn; lsn < small.log.endLsn; lsn++)
    t.ok(small.bench.sector(lsn)?.equals(large.bench.sector(lsn) ?? Buffer.alloc(0)), `LSN ${lsn}`);
});

t.test('L9: the log is synced after milliseconds, or a megabyte, asked or not', async (t) => {
  const bench = await GroupBench.logged({ regions: 512, logBytes: 8 * MIB });
  await bench.pass(20);
  await bench.write(0, 1);
  t.ok(bench.group.log.durableLsn < bench.group.log.endLsn);
  await bench.pass(5, 1);
  t.equal(bench.group.log.durableLsn, bench.group.log.endLsn, 'after milliseconds');
  for (let region = 0; region < 300; region++) await bench.write(region, 2);
  await bench.turns();
  const { endLsn, durableLsn } = bench.group.log;
  t.ok((endLsn - durableLsn) * LOG_SECTOR_BYTES <= 1 * MIB, 'after a megabyte, though the clock stands');
});

t.test('L10: the effect of a barrier and the checkpoint past it are one durable write', async (t) => {
  const bench = await GroupBench.make();
  const lsns = new Map<string, number>();
  let looks = 0;
  bench.watch(() => {
    for (const { name, lsn } of bench.group.snapshots) lsns.set(name, lsn);
    const record = bench.durableRecord();
    const has = (name: string) => record.nodes.some((node) => node.name === name);
    const done = (name: string) => record.checkpointLsn > (lsns.get(name) ?? Number.POSITIVE_INFINITY);
    const restores = record.nodes.some((node) => node.kind === 'restore');
    if (bench.group.operations.some(({ kind }) => kind === 'restore') && has('undo') !== restores)
      throw new Error('the undo snapshot and the restore come together');
    for (const name of ['a', 'b', 'undo'])
      if (has(name) !== done(name)) throw new Error(`${name}: ${JSON.stringify(record)}`);
    looks++;
    return undefined;
  });
  await bench.write(0, 1);
  await bench.group.createSnapshot('a');
  await bench.write(0, 2);
  await bench.group.createSnapshot('b');
  await bench.write(1, 3);
  await bench.group.restore('a');
  await bench.group.settled();
  t.equal(bench.group.failure, undefined);
  t.ok(looks > 30, `${looks} times`);
  t.same((await bench.fills()).slice(0, 2), [1, 0]);
});

t.test('L10: no batch spans a barrier, and none is replayed', async (t) => {
  for (let cut = 1; cut < 60; cut += 2) {
    const bench = await GroupBench.make({ seed: cut });
    await bench.write(0, 1);
    bench.cutAt(cut);
    const done: string[] = [];
    const work = async () => {
      await bench.group.createSnapshot('a');
      done.push('a');
      await bench.write(0, 2);
      await bench.group.createSnapshot('b');
      done.push('b');
      await bench.write(0, 3);
      await bench.group.restore('a');
      done.push('undo');
      await bench.group.settled();
    };
    await Promise.race([work().catch(() => {}), bench.turns(4000)]);
    await bench.crash();
    await bench.group.settled();
    const names = bench.group.snapshots.map(({ name }) => name);
    t.same(names, [...new Set(names)], `cut ${cut}: none is there twice`);
    for (const name of done) t.ok(names.includes(name), `cut ${cut}: ${name} is there`);
    const want = { a: 1, b: 2, undo: 3 };
    for (const [name, value] of Object.entries(want))
      if (names.includes(name))
        t.equal((await bench.fills(bench.snapshot(name)))[0], value, `cut ${cut}: ${name}`);
    if (names.includes('undo')) t.equal((await bench.fills())[0], 1, `cut ${cut}: restored`);
  }
});

t.test('L10: what is open when a barrier comes is sealed before it', async (t) => {
  const bench = await GroupBench.logged();
  // Not settled: the batch is open.
  t.ok(bench.volume().tryWrite(Buffer.alloc(REGION, 1), 0, REGION, 0));
  const taken = bench.group.createSnapshot('a');
  await taken;
  t.ok(bench.volume().tryWrite(Buffer.alloc(REGION, 2), 0, REGION, 0));
  await bench.group.createSnapshot('b');
  await bench.crash();
  for (const [name, value] of [
    ['s', 0],
    ['a', 1],
    ['b', 2],
  ] as const)
    t.equal((await bench.fills(bench.snapshot(name)))[0], value, name);
});

t.test('L10: a unit becomes visible as one, and is merged', async (t) => {
  const bench = await GroupBench.logged();
  const trace = bench.watch();
  for (const value of [1, 2]) for (let region = 0; region < 4; region++) await bench.write(region, value);
  const release = bench.folder.hold('write', 'v.img', 3);
  await bench.pass(60);
  t.same(bench.rawFills().slice(0, 4), [0, 0, 0, 0]);
  t.same((await bench.fills()).slice(0, 4), [2, 2, 2, 2]);
  release();
  await bench.turns(3);
  t.same((await bench.fills()).slice(0, 4), [2, 2, 2, 2], 'half of it is written');
  await bench.group.settled();
  t.same((await bench.fills()).slice(0, 4), [2, 2, 2, 2]);
  t.equal(times(trace, 'write v.img'), 4, 'what was written twice is applied once');
});

t.test('L11: a trim reads as zeroes at once, and is a hole when applied', async (t) => {
  const bench = await GroupBench.make();
  await bench.write(0, 1, 8);
  await bench.group.createSnapshot('s');
  await bench.group.settled();
  const { usedBytes } = bench.group.log;
  const trace = bench.watch();
  await bench.volume().trim(REGION, 4 * REGION);
  await bench.volume().writeZeroes(6 * REGION, REGION, { mayPunch: false, fast: true });
  t.same(await bench.fills(), [1, 0, 0, 0, 0, 1, 0, 1]);
  t.ok(bench.group.log.usedBytes - usedBytes <= 4 * KIB, 'it costs a record');
  await bench.group.settled();
  t.same(await bench.fills(), [1, 0, 0, 0, 0, 1, 0, 1]);
  t.same(await bench.fills(bench.snapshot('s')), Array(8).fill(1));
  t.same([times(trace, 'punch v.img'), times(trace, 'zero v.img')], [1, 1], 'only what may be is a hole');
  const holes = await bench.volume().allocation(0, 8 * REGION, 10);
  t.same(holes[1], { lengthBytes: 4 * REGION, hole: true, zero: true });
});

t.test('L11: preserving a hole sets the bit and copies nothing', async (t) => {
  const bench = await GroupBench.logged({ regions: 64, logBytes: 4 * MIB });
  await bench.write(0, 1);
  await bench.group.settled();
  const store = [...bench.folder.media].find(([name]) => name.endsWith('v.preserved'))?.[1];
  const used = store?.now.size;
  t.equal(used, 16, 'but for header and map, of a block each');
  let reads = 0;
  bench.watch((operation, name) => {
    if (operation === 'read' && name.endsWith('v.img')) reads++;
    return undefined;
  });
  const write = bench.write(1, 1, 40);
  await bench.pass(20);
  await write;
  await bench.group.settled();
  t.equal(bench.group.snapshots[0]?.volumes[0]?.preservedRegions, 41);
  t.equal(store?.now.size, used, 'no room is taken');
  t.equal(reads, 0, 'long holes are not even read');
  t.same(await bench.fills(bench.snapshot('s')), Array(64).fill(0));
});

t.test('L12: while the log is full writers wait, in order, and memory does not grow', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const writes = await fill(bench);
  const { usedBytes, sizeBytes, pendingBytes } = bench.group.log;
  t.ok(usedBytes <= sizeBytes);
  let acknowledged = 0;
  const late = [1, 2, 3].map((value) =>
    bench.write(63, value).then(() => {
      acknowledged++;
    }),
  );
  await bench.pass(300);
  t.equal(acknowledged, 0);
  t.same([bench.group.log.usedBytes, bench.group.log.pendingBytes], [usedBytes, pendingBytes]);
  t.equal(times(bench.told, 'log.full'), 1, 'it is told once');
  await release(bench);
  await Promise.all([...writes, ...late]);
  t.ok(inOrder(bench.told, ['log.full', 'log.room']));
  await bench.group.settled();
  t.equal((await bench.fills())[63], 3, 'first come, first served');
});

t.test('L12: a small write does not overtake a large one that waits', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined));
  while (bench.group.log.usedBytes < 160 * KIB) {
    await bench.write(0, 1);
    await bench.pass(1, 1);
  }
  const large = bench.write(8, 1, 12);
  await bench.pass(10);
  const small = bench.put(bench.volume(), Buffer.alloc(512, 2), 8 * REGION);
  await bench.pass(10);
  t.ok(inOrder(bench.told, ['log.full']));
  await release(bench);
  await Promise.all([large, small]);
  t.equal((await bench.read(bench.volume(), 8 * REGION, 1))[0], 2);
});

t.test('L12: who waits when the group is closed is refused', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const writes = await fill(bench);
  const closing = bench.group.close().catch(() => {});
  const results = await Promise.allSettled(writes);
  const last = results.at(-1);
  t.ok(last?.status === 'rejected' && last.reason instanceof EngineError);
  t.match(last, { reason: { code: 'unavailable', errno: 'ESHUTDOWN' } });
  await closing;
});
