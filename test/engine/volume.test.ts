import t from 'tap';
import type { Disk, DiskExtent } from '../../engine/disk/disk.ts';
import { Group } from '../../engine/group.ts';
import { KIB, MIB } from '../../engine/units.ts';
import type { Volume } from '../../engine/volume.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const SIZE = 1 * MIB;
const REGION = 4 * KIB;

async function make(folder: MemoryFolder): Promise<{ group: Group; volume: Volume }> {
  const spec = { name: 'g', regionBytes: REGION, volumes: [{ name: 'v', sizeBytes: SIZE }] };
  const group = await Group.create(folder, spec, new ManualClock());
  return { group, volume: volumeOf(group) };
}

function volumeOf(group: Group): Volume {
  const volume = group.volumes.get('v');
  if (volume === undefined) throw new Error('no volume');
  return volume;
}

async function write(volume: Volume, bytes: Buffer, offsetBytes: number): Promise<void> {
  if (!volume.tryWrite(bytes, 0, bytes.length, offsetBytes))
    await volume.write(bytes, 0, bytes.length, offsetBytes);
}

async function read(volume: Volume, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
  const bytes = Buffer.alloc(lengthBytes, 0xee);
  if (!volume.tryRead(bytes, 0, lengthBytes, offsetBytes))
    await volume.read(bytes, 0, lengthBytes, offsetBytes);
  return bytes;
}

t.test('random requests at once on disjoint ranges: content and map are those of a byte array', async (t) => {
  for (let seed = 1; seed <= 15; seed++) {
    const random = new Random(seed);
    const folder = new MemoryFolder(random);
    const { group, volume } = await make(folder);
    folder.faults.tryRefusal = 0.4;
    const model = Buffer.alloc(SIZE);
    const touched = new Set<number>();
    for (let batch = 0; batch < 12; batch++) {
      // Cut the volume at random places; each piece gets one request, all at the same time.
      const cuts = Array.from({ length: 8 }, () => random.below(SIZE)).sort((a, b) => a - b);
      const work: Promise<unknown>[] = [volume.flush()];
      for (let i = 0; i + 1 < cuts.length; i++) {
        const start = cuts[i] ?? 0;
        const end = Math.min(cuts[i + 1] ?? 0, start + random.between(1, 60_000));
        if (end <= start) continue;
        const kind = random.below(4);
        if (kind < 2) {
          for (let region = Math.floor(start / REGION); region * REGION < end; region++) touched.add(region);
          const bytes = Buffer.alloc(end - start, random.between(1, 255));
          bytes.copy(model, start);
          work.push(write(volume, bytes, start));
        } else {
          model.fill(0, start, end);
          if (kind === 2) work.push(volume.trim(start, end - start));
          else
            work.push(volume.writeZeroes(start, end - start, { mayPunch: random.chance(0.5), fast: false }));
        }
      }
      await Promise.all(work);
      if (!(await read(volume, 0, SIZE)).equals(model)) throw new Error(`seed ${seed}: content differs`);
      for (const region of touched)
        if (!volume.written.has(region)) throw new Error(`seed ${seed}: region ${region} is not marked`);
      if (volume.written.count !== touched.size) throw new Error(`seed ${seed}: the map is not tight`);
    }
    await group.close();
  }
  t.pass('content and maps agree');
});

t.test('invariant 1: what a flush acknowledged is there after a crash, and marked', async (t) => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Random(seed);
    const folder = new MemoryFolder(random);
    const { volume } = await make(folder);
    folder.faults.tryRefusal = 0.3;
    // Each place is written once, so that after the crash it has what was flushed, or what came later.
    const flushed = new Map<number, number>();
    let alive = true;
    const writer = async (first: number): Promise<void> => {
      for (let place = first; place < 256 && alive; place += 4) {
        await write(volume, Buffer.alloc(REGION, place + 1), place * REGION).catch(() => undefined);
        if (!random.chance(0.3) || !alive) continue;
        const done = await volume.flush().then(
          () => true,
          () => false,
        );
        if (done && alive) for (let at = first; at <= place; at += 4) flushed.set(at, at + 1);
      }
    };
    const writers = [0, 1, 2, 3].map(writer);
    for (let turns = random.between(20, 400); turns > 0; turns--) await Promise.resolve();
    alive = false;
    folder.crash();
    await Promise.all(writers);
    folder.faults.tryRefusal = 0;
    const after = volumeOf(await Group.open(folder, new ManualClock()));
    const content = await read(after, 0, SIZE);
    for (const [place, value] of flushed) {
      const bytes = content.subarray(place * REGION, (place + 1) * REGION);
      if (!bytes.equals(Buffer.alloc(REGION, value))) throw new Error(`seed ${seed}: place ${place} is lost`);
    }
    for (let place = 0; place < 256; place++) {
      const blank = content.subarray(place * REGION, (place + 1) * REGION).equals(Buffer.alloc(REGION));
      if (!blank && !after.written.has(place)) throw new Error(`seed ${seed}: place ${place} is not marked`);
    }
  }
  t.pass('nothing flushed was lost, nothing written was unmarked');
});

t.test('L6: after a failed sync the volume takes no writes, says why, and is read on', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  await write(volume, Buffer.alloc(REGION, 5), 0);
  const told: string[] = [];
  volume.onFailure((reason) => told.push(reason));
  let syncs = 0;
  folder.faults.decide = (operation, name) => {
    if (operation !== 'sync' || !name.endsWith('.img')) return undefined;
    syncs++;
    return 'EIO';
  };
  t.equal(volume.failure, undefined);
  const flushes = await Promise.allSettled([volume.flush(), volume.flush()]);
  t.same(
    flushes.map((flush) => flush.status),
    ['rejected', 'rejected'],
  );
  folder.faults.decide = undefined;
  t.equal(syncs, 1);
  t.match(volume.failure, /volume v takes no more writes.*sync failed \(EIO\)/);
  t.same(told, [volume.failure]);
  const refused = { code: 'unavailable', errno: 'EIO' };
  t.throws(() => volume.tryWrite(Buffer.alloc(8), 0, 8, 0), refused);
  await t.rejects(volume.write(Buffer.alloc(8), 0, 8, 0), refused);
  await t.rejects(volume.flush(), refused);
  await t.rejects(volume.trim(0, 8), refused);
  await t.rejects(volume.writeZeroes(0, 8, { mayPunch: true, fast: false }), refused);
  t.equal((await read(volume, 0, 1))[0], 5);
  t.equal(syncs, 1, 'never repeated');
  await group.close();
  t.equal(syncs, 1, 'not even at the end');
});

t.test('L6: so it does when its map cannot be kept', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  folder.faults.decide = (operation, name) =>
    operation === 'sync' && name.endsWith('.map') ? 'EIO' : undefined;
  t.equal(volume.tryWrite(Buffer.alloc(8), 0, 8, 0), false);
  await t.rejects(volume.write(Buffer.alloc(8, 1), 0, 8, 0), { code: 'disk', errno: 'EIO' });
  t.match(volume.failure, /region map/);
  t.same(await read(volume, 0, 8), Buffer.alloc(8), 'the write did not reach the disk');
  folder.faults.decide = undefined;
  await group.close();
});

t.test('what one request is refused for does not fail the volume', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  await write(volume, Buffer.alloc(REGION, 1), 0);
  folder.faults.spaceSectors = folder.usedSectors();
  t.throws(() => volume.tryWrite(Buffer.alloc(REGION), 0, REGION, SIZE / 2), {
    code: 'disk',
    errno: 'ENOSPC',
  });
  await t.rejects(volume.write(Buffer.alloc(REGION), 0, REGION, SIZE / 2), { code: 'disk', errno: 'ENOSPC' });
  t.equal(volume.failure, undefined);
  await volume.trim(0, REGION);
  await write(volume, Buffer.alloc(REGION, 2), SIZE / 2);
  await t.rejects(volume.writeZeroes(0, REGION, { mayPunch: false, fast: true }), {
    code: 'disk',
    errno: 'ENOTSUP',
  });
  await volume.flush();
  await group.close();
});

t.test('allocation tells holes; empty requests and ends are right', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  await write(volume, Buffer.alloc(512, 1), 1024);
  const data = { hole: false, zero: false };
  const hole = { hole: true, zero: true };
  const expected: DiskExtent[] = [
    { lengthBytes: 1024, ...hole },
    { lengthBytes: 512, ...data },
    { lengthBytes: SIZE - 1536, ...hole },
  ];
  t.same(await volume.allocation(0, SIZE, 10), expected);
  t.same(await volume.allocation(0, SIZE, 2), expected.slice(0, 2));
  t.equal(volume.tryWrite(Buffer.alloc(0), 0, 0, SIZE), true);
  await volume.trim(SIZE, 0);
  await volume.writeZeroes(SIZE, 0, { mayPunch: true, fast: true });
  t.equal(volume.written.count, 1);
  await write(volume, Buffer.from([9]), SIZE - 1);
  t.equal(volume.written.has(SIZE / REGION - 1), true);
  await volume.prefetch(0, SIZE);
  t.throws(() => volume.tryRead(Buffer.alloc(2), 0, 2, SIZE - 1), /bug/);
  await group.close();
});

t.test('close waits for what is under way, and then all is refused', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  const under = [
    volume.write(Buffer.alloc(REGION, 3), 0, REGION, 0),
    volume.trim(REGION, REGION),
    volume.read(Buffer.alloc(8), 0, 8, 0),
  ];
  const closing = group.close();
  t.equal(group.close(), closing);
  const gone = { code: 'unavailable', errno: 'ESHUTDOWN' };
  t.throws(() => volume.tryRead(Buffer.alloc(8), 0, 8, 0), gone);
  await t.rejects(volume.flush(), gone);
  await Promise.all(under);
  await closing;
  folder.crash();
  const again = volumeOf(await Group.open(folder, new ManualClock()));
  t.same(await read(again, 0, 4), Buffer.alloc(4, 3), 'close made it durable');
  t.same([...again.written.runs()], [{ first: 0, end: 1 }], 'and the map exactly');
});

t.test('zeroes mark nothing: a region that is not marked is blank, and stays so', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const { group, volume } = await make(folder);
  await volume.trim(0, SIZE);
  await volume.writeZeroes(100, SIZE - 100, { mayPunch: false, fast: false });
  t.equal(volume.written.count, 0);
  await write(volume, Buffer.alloc(512, 1), 3 * REGION);
  await volume.trim(0, SIZE);
  t.same([...volume.written.runs()], [{ first: 3, end: 4 }], 'what was written once stays marked');
  t.ok((await read(volume, 0, SIZE)).equals(Buffer.alloc(SIZE)));
  await group.close();
});

/** Its data disks take a turn of the event loop for each piece that they zero, and tell which pieces these were. */
class ZeroingFolder extends MemoryFolder {
  readonly pieces: [startBytes: number, lengthBytes: number][] = [];

  override async create(name: string, sizeBytes: number): Promise<Disk> {
    const disk = await super.create(name, sizeBytes);
    if (!name.startsWith('volumes/')) return disk;
    const zero = async (startBytes: number, lengthBytes: number): Promise<void> => {
      this.pieces.push([startBytes, lengthBytes]);
      await new Promise<void>((resolve) => setImmediate(resolve));
    };
    return Object.assign(disk, { punch: zero, zero });
  }
}

t.test('zeroing a huge range ends when the volume closes', async (t) => {
  const TERABYTE = 1024 * 1024 * MIB;
  for (const kind of ['trim', 'punch', 'zero'] as const) {
    const folder = new ZeroingFolder(new Random(4));
    const spec = { name: 'g', regionBytes: 32 * MIB, volumes: [{ name: 'v', sizeBytes: TERABYTE }] };
    const group = await Group.create(folder, spec, new ManualClock());
    const volume = volumeOf(group);
    const { pieces } = folder;
    const work =
      kind === 'trim'
        ? volume.trim(4096, TERABYTE - 4096)
        : volume.writeZeroes(4096, TERABYTE - 4096, { mayPunch: kind === 'punch', fast: false });
    const ended = t.rejects(work, { code: 'unavailable', errno: 'ESHUTDOWN' }, kind);
    while (pieces.length < 3) await new Promise<void>((resolve) => setImmediate(resolve));
    await Promise.all([ended, group.close()]);
    t.same(pieces.slice(0, 3), [
      [4096, 64 * MIB - 4096],
      [64 * MIB, 64 * MIB],
      [128 * MIB, 64 * MIB],
    ]);
    t.ok(pieces.length < 100, `${pieces.length} of 16384 pieces`);
  }
});
