/** Groups that log, over their life: closed and opened with work pending, restored, imported into, upgraded; what they tell of it. */
import t from 'tap';
import { GROUP_RECORD_SLOT_BYTES, groupRecordHeaderLayout, seal } from '../../engine/formats.ts';
import { Group } from '../../engine/group.ts';
import { KIB } from '../../engine/units.ts';
import { GroupBench, inOrder, REGION, times } from '../fixtures/group-bench.ts';
import type { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const slow = { group: { copyBytesPerSecond: 1 } };

t.test(
  'closed with work pending: what can be applied is, and the rest is there at the next start',
  async (t) => {
    const bench = await GroupBench.make({ regions: 4, ...slow });
    await bench.write(0, 1, 4);
    await bench.group.createSnapshot('a');
    await bench.write(0, 2, 4);
    await bench.group.restore('a');
    await bench.write(1, 3);
    await bench.reopen();
    t.same(await bench.fills(), [1, 3, 1, 1]);
    t.equal(bench.group.log.appliedLsn, bench.group.log.endLsn, 'the log was applied by the close');
    t.equal(times(bench.told, 'recovery.started'), 0);
    const [restore] = bench.group.operations;
    t.match(restore, { kind: 'restore', target: 'a', unit: 'regions' });
    t.same(await bench.fills(bench.snapshot('undo')), [2, 2, 2, 2]);
  },
);

t.test('closed while a disk refuses: it closes, and nothing is lost', async (t) => {
  const bench = await GroupBench.logged({ regions: 4 });
  await bench.write(0, 1, 4);
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined));
  await bench.group.close();
  bench.folder.faults.decide = undefined;
  await bench.open();
  t.same(await bench.fills(), [1, 1, 1, 1]);
  const [replay] = bench.group.operations;
  t.match(replay, { kind: 'replay', target: 'g', unit: 'bytes', done: 0 });
  const { endLsn, checkpointLsn } = bench.group.log;
  t.equal(replay?.total, (endLsn - checkpointLsn) * 512);
  await bench.group.settled();
  t.ok(inOrder(bench.told, ['group.stalled', 'recovery.started', 'recovery.completed']));
  t.same(bench.group.operations, []);
  t.same(bench.rawFills(), [1, 1, 1, 1]);
});

t.test('what is asked for while it closes is refused', async (t) => {
  const bench = await GroupBench.logged({ regions: 4 });
  const served = bench.snapshot('s');
  const closing = bench.group.close();
  const gone = { code: 'unavailable' };
  await t.rejects(bench.group.createSnapshot('x'), gone);
  await t.rejects(bench.group.restore('s'), gone);
  await t.rejects(bench.volume().write(Buffer.alloc(8), 0, 8, 0), gone);
  await closing;
  await t.rejects(served.write(Buffer.alloc(8), 0, 8, 0), gone);
  t.equal(bench.group.close(), closing);
});

t.test('settled ends when a sync of a volume fails, once or always, and so does close', async (t) => {
  for (const failures of [1, 2, Number.POSITIVE_INFINITY]) {
    const bench = await GroupBench.logged({ regions: 4 });
    let left = failures;
    bench.watch((operation, name) =>
      operation === 'sync' && name.endsWith('v.img') && left-- > 0 ? 'EIO' : undefined,
    );
    await bench.write(0, 1, 4);
    await bench.group.settled();
    t.same(await bench.fills(), [1, 1, 1, 1]);
    t.equal(
      bench.group.stall !== undefined || bench.group.log.checkpointLsn === bench.group.log.endLsn,
      true,
    );
    await bench.group.close().catch(() => {});
    await bench.crash();
    t.same(await bench.fills(), [1, 1, 1, 1], `${failures} failures`);
  }
});

t.test('one volume is restored, and that is undone', async (t) => {
  const bench = await GroupBench.make({ regions: 4, volumes: ['v', 'w'], ...slow });
  const w = () => bench.volume('w');
  await bench.write(0, 1, 4);
  await bench.write(0, 1, 4, w());
  await bench.group.createSnapshot('a');
  await bench.write(0, 2, 2);
  await bench.write(0, 2, 2, w());
  t.match(bench.group.planRestore('a', { volume: 'w' }), {
    regions: 2,
    bytes: 2 * REGION,
    volumes: [{ name: 'w', regions: 2, bytes: 2 * REGION }],
  });
  const result = await bench.group.restore('a', { volume: 'w' });
  t.match(result, { plan: { regions: 2 }, undo: { name: 'undo', undoOf: ['w'] } });
  t.same(
    [await bench.fills(), await bench.fills(w())],
    [
      [2, 2, 1, 1],
      [1, 1, 1, 1],
    ],
  );
  await bench.write(3, 3);
  await bench.write(3, 3, 1, w());
  t.same(
    bench.group.planRestore('undo').volumes.map(({ name }) => name),
    ['w'],
    'undoing it is about that volume',
  );
  await bench.group.restore('undo');
  const wanted = [
    [2, 2, 1, 3],
    [2, 2, 1, 1],
  ];
  t.same([await bench.fills(), await bench.fills(w())], wanted);
  await bench.crash();
  await bench.pass(60);
  t.same([await bench.fills(), await bench.fills(w())], wanted);
  t.match(bench.group.snapshots.at(-1), { name: 'undo', undoOf: ['w'] });
  await t.rejects(bench.group.restore('a', { volume: 'x' }), { code: 'not-found' });
  await t.rejects(bench.group.restore('x'), { code: 'not-found' });
});

t.test('operations tell how far they are', async (t) => {
  const bench = await GroupBench.make({ regions: 8, ...slow });
  await bench.write(0, 1, 8);
  await bench.group.createSnapshot('a');
  await bench.write(0, 2, 8);
  const { operation } = await bench.group.restore('a');
  await bench.pass(60);
  const seen: number[] = [];
  for (let round = 0; round < 20 && bench.group.operations.length > 0; round++) {
    const [view] = bench.group.operations;
    t.match(view, { id: operation, kind: 'restore', target: 'a', total: 8, unit: 'regions' });
    seen.push(view?.done ?? -1);
    await bench.pass(4_200_000, 4_200_000);
  }
  t.same(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  t.ok(seen.length >= 8, seen.join());
  t.ok(inOrder(bench.told, ['snapshot.created', 'restore.started', 'restore.completed']));
  bench.watch((kind, name) => (kind === 'write' && name.endsWith('.copied') ? 'EIO' : undefined));
  await bench.group.detachSnapshot('a');
  await bench.pass(60);
  t.match(bench.group.operations, [{ kind: 'detach', target: 'a', done: 0, total: 8 }]);
  t.equal(bench.group.snapshots[0]?.state, 'detaching');
  await t.rejects(bench.group.detachSnapshot('a'), { code: 'in-use' });
  await t.rejects(bench.group.refreshSnapshot('a'), { code: 'in-use' });
  t.match(bench.group.stall, /EIO/);
  bench.folder.faults.decide = undefined;
  await bench.pass(2000);
  await bench.group.settled();
  t.equal(bench.group.snapshots[0]?.state, 'detached');
  await t.rejects(bench.group.detachSnapshot('a'), { code: 'invalid' });
});

t.test('what users do is told', async (t) => {
  const bench = await GroupBench.make({ regions: 4 });
  await bench.group.createSnapshot('a');
  await bench.group.renameSnapshot('a', 'b');
  await bench.group.refreshSnapshot('b');
  await bench.group.detachSnapshot('b');
  await bench.group.settled();
  await bench.group.deleteSnapshot('b');
  await bench.group.settled();
  const told = bench.told.filter((type) => type.startsWith('snapshot.'));
  const names = ['created', 'renamed', 'refreshed', 'detached', 'deleted'].map((what) => `snapshot.${what}`);
  t.same([...new Set(told)], names);
  for (const { message, data } of bench.events) t.ok(message.length > 5 && data !== undefined, message);
  t.equal(bench.group.mode, 'direct');
  const left = [...bench.folder.media.keys()].filter((name) => /^(snapshots|restores)\//.test(name));
  t.same(left, [], 'and nothing is left');
});

t.test('names: what is refused, and changes nothing', async (t) => {
  const bench = await GroupBench.make({ regions: 4 });
  await bench.group.createSnapshot('a');
  for (const name of ['', 'a/b', 'a@b', 'undo', 'x'.repeat(65)])
    await t.rejects(bench.group.createSnapshot(name), { code: 'invalid' }, JSON.stringify(name));
  await t.rejects(bench.group.createSnapshot('a'), { code: 'exists' });
  await t.rejects(bench.group.renameSnapshot('a', 'a'), { code: 'exists' });
  await t.rejects(bench.group.renameSnapshot('x', 'y'), { code: 'not-found' });
  await t.rejects(bench.group.deleteSnapshot('x'), { code: 'not-found' });
  await t.rejects(bench.group.refreshSnapshot('x'), { code: 'not-found' });
  await t.rejects(bench.group.detachSnapshot('x'), { code: 'not-found' });
  t.throws(() => bench.group.planRestore('x'), { code: 'not-found' });
  t.throws(() => bench.group.changedRuns('v', 'x', undefined, 0, 1), { code: 'not-found' });
  t.throws(() => bench.group.changedRuns('x', 'a', undefined, 0, 1), { code: 'not-found' });
  t.equal(bench.group.snapshotVolume('x', 'v'), undefined);
  t.equal(bench.group.snapshotVolume('a', 'x'), undefined);
  t.equal(bench.group.snapshots.length, 1);
});

async function image(folder: MemoryFolder, path: string, bytes: Buffer): Promise<void> {
  const disk = await folder.createOutside(path, bytes.length);
  await disk.write(bytes, 0, bytes.length, 0);
  await disk.sync();
  await disk.close();
}

t.test('an import writes what differs, and snapshots keep what was there', async (t) => {
  for (const logged of [false, true]) {
    const bench = await GroupBench.make({ regions: 8 });
    await bench.write(0, 1, 8);
    if (logged) await bench.group.createSnapshot('s');
    const content = Buffer.alloc(6 * REGION + 1000, 1);
    content.fill(0, REGION, 2 * REGION);
    content.fill(7, 3 * REGION + 9, 3 * REGION + 10);
    await image(bench.folder, '/image', content);
    const disk = await bench.folder.openImage('/image');
    const seen: unknown[] = [];
    const importing = bench.group.import('v', disk);
    seen.push(bench.group.operations[0]);
    const result = await importing;
    t.same(result, { regionsCompared: 7, regionsWritten: 2, bytesWritten: 2 * REGION });
    t.match(seen, [{ kind: 'import', target: 'v', unit: 'bytes', total: content.length }]);
    t.same(bench.group.operations, []);
    const wanted = Buffer.concat([content, Buffer.alloc(8 * REGION - content.length, 1)]);
    t.ok((await bench.read(bench.volume(), 0, 8 * REGION)).equals(wanted));
    if (logged) {
      t.same(await bench.fills(bench.snapshot('s')), Array(8).fill(1));
      t.equal(bench.group.planRestore('s').regions, 2);
    }
    await bench.crash();
    t.ok((await bench.read(bench.volume(), 0, 8 * REGION)).equals(wanted), 'it is durable');
    await disk.close();
    await image(bench.folder, '/large', Buffer.alloc(9 * REGION));
    const large = await bench.folder.openImage('/large');
    await t.rejects(bench.group.import('v', large), { code: 'invalid', message: /fits/ });
    await t.rejects(bench.group.import('x', large), { code: 'not-found' });
  }
});

/** Makes of a new group what version 1 of its record was. */
async function downgrade(bench: GroupBench): Promise<void> {
  const { folder } = bench;
  const slot = bench.bytesOf('group.record', false, 0, GROUP_RECORD_SLOT_BYTES);
  const header = groupRecordHeaderLayout.decode(slot);
  const span = groupRecordHeaderLayout.span;
  const now = JSON.parse(slot.toString('utf8', span, span + header.payloadBytes)) as Record<string, unknown>;
  const fields = ['state', 'id', 'name', 'role', 'createdAt', 'regionBytes', 'volumes'];
  const old = Object.fromEntries(fields.map((field) => [field, now[field]]));
  const payload = Buffer.from(JSON.stringify(old));
  await folder.remove('group.record');
  await folder.remove('log.ring');
  const disk = await folder.create('group.record', 2 * GROUP_RECORD_SLOT_BYTES);
  for (const sequence of [1n, 2n]) {
    const bytes = Buffer.alloc(span + payload.length);
    groupRecordHeaderLayout.encode({ ...header, version: 1, sequence, payloadBytes: payload.length }, bytes);
    payload.copy(bytes, span);
    seal(bytes);
    await disk.write(bytes, 0, bytes.length, Number(sequence % 2n) * GROUP_RECORD_SLOT_BYTES);
  }
  await disk.sync();
  await disk.close();
}

t.test('a group of version 1 is upgraded, and used as any other', async (t) => {
  const bench = await GroupBench.make({ regions: 4 });
  await bench.write(0, 1, 4);
  await bench.group.close();
  await downgrade(bench);
  await bench.open();
  t.equal(bench.group.mode, 'direct');
  t.same(await bench.fills(), [1, 1, 1, 1]);
  t.ok(bench.group.log.sizeBytes > 256 * KIB);
  await bench.write(1, 2);
  await bench.reopen();
  t.same(await bench.fills(), [1, 2, 1, 1]);
  await bench.group.createSnapshot('s');
  await bench.write(2, 3);
  await bench.group.restore('s');
  await bench.crash();
  await bench.group.settled();
  t.same(await bench.fills(), [1, 2, 1, 1]);
  t.same(await bench.fills(bench.snapshot('undo')), [1, 2, 3, 1]);
  await bench.group.close();
});

t.test('a full disk does not let a group begin to log, and leaves it as it was', async (t) => {
  const bench = await GroupBench.make({ regions: 4 });
  await bench.write(0, 1, 2);
  bench.folder.faults.spaceSectors = bench.folder.usedSectors() + 100;
  await t.rejects(bench.group.createSnapshot('s'), { code: 'disk', errno: 'ENOSPC' });
  t.equal(bench.group.mode, 'direct');
  t.same(bench.group.snapshots, []);
  await bench.write(2, 1);
  bench.folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
  await bench.group.createSnapshot('s');
  t.same(await bench.fills(bench.snapshot('s')), [1, 1, 1, 0]);
});

t.test('a group that cannot be opened leaves nothing open', async (t) => {
  const bench = await GroupBench.logged({ regions: 4 });
  await bench.write(0, 1);
  await bench.group.settled();
  await bench.group.detachSnapshot('s');
  await bench.group.settled();
  await bench.group.close();
  const files = [...bench.folder.media.keys()].filter((name) => name !== 'reserve');
  for (const name of files) {
    let opened = 0;
    bench.folder.faults.decide = (operation, file) => {
      if (operation === 'open') opened++;
      return operation === 'read' && file === name ? 'EIO' : undefined;
    };
    const failed = await bench.open().catch((error: unknown) => error);
    bench.folder.faults.decide = undefined;
    if (failed instanceof Group) await failed.close();
    else t.match(failed, { code: 'disk' }, name);
    for (const other of files) await (await bench.folder.open(other)).close();
    t.ok(opened > 0);
  }
  await bench.open();
});

t.test('a random life, against images', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const bench = await GroupBench.make({ seed, regions: 8, ...(seed % 2 === 0 ? slow : {}) });
    const random = new Random(seed);
    let head = Array<number>(8).fill(0);
    const images = new Map<string, number[]>();
    const check = async (at: number) => {
      const seen = (await bench.fills()).join();
      if (seen !== head.join()) throw new Error(`seed ${seed}, step ${at}: head is ${seen}, not ${head}`);
      for (const [name, fills] of images) {
        const found = (await bench.fills(bench.snapshot(name))).join();
        if (found !== fills.join())
          throw new Error(`seed ${seed}, step ${at}: ${name} is ${found}, not ${fills}`);
        checkRuns(bench, name, fills, head, `seed ${seed}, step ${at}`);
      }
    };
    for (let at = 1; at <= 60; at++) {
      const names = [...images.keys()];
      const region = random.below(8);
      const kind = random.below(12);
      if (kind < 4) {
        await bench.write(region, at);
        head[region] = at;
      } else if (kind === 4 && names.length < 4) {
        await bench.group.createSnapshot(`s${at}`);
        images.set(`s${at}`, [...head]);
      } else if (kind === 5 && names.length > 0) {
        const name = random.pick(names);
        await bench.group.restore(name);
        const before = head;
        head = [...(images.get(name) ?? [])];
        images.set('undo', before);
      } else if (kind === 6 && names.length > 0) {
        const name = random.pick(names);
        const write = bench.write(region, 100 + at, 1, bench.snapshot(name));
        await bench.pass(60);
        await write;
        const fills = images.get(name);
        if (fills !== undefined) fills[region] = 100 + at;
      } else if (kind === 7 && names.length > 1) {
        const name = random.pick(names);
        await bench.group.deleteSnapshot(name);
        images.delete(name);
      } else if (kind === 8 && names.length > 0) {
        const name = random.pick(names);
        await bench.group.refreshSnapshot(name, { force: true }).then(
          () => images.set(name, [...head]),
          () => {},
        );
      } else if (kind === 9 && names.length > 0)
        await bench.group.detachSnapshot(random.pick(names)).catch(() => {});
      else if (kind === 10) await bench.pass(random.pick([10, 100, 5_000_000]), 100_000);
      else if (kind === 11 && random.chance(0.5)) {
        await bench.volume().flush();
        for (const name of images.keys()) await bench.snapshot(name).flush();
        await bench.crash();
      }
      await check(at);
    }
  }
  t.pass();
});

/** What differs is in the runs. */
function checkRuns(
  bench: GroupBench,
  name: string,
  image: readonly number[],
  head: readonly number[],
  label: string,
): void {
  const runs = bench.group.changedRuns('v', name, undefined, 0, 8);
  for (let region = 0; region < 8; region++) {
    const listed = runs.some(({ first, end }) => first <= region && region < end);
    if (!listed && image[region] !== head[region])
      throw new Error(`${label}: ${name}: region ${region} is not listed`);
  }
}
