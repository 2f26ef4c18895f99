import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Disk } from '../../engine/disk/disk.ts';
import { diskError } from '../../engine/disk/disk-error.ts';
import { FileDisk } from '../../engine/disk/file-disk.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { fallocate } from '../../engine/disk/native.ts';
import { turnstile } from '../../engine/disk/turnstile.ts';
import { GIB, KIB, MIB, TIB } from '../../engine/units.ts';
import { Random } from '../fixtures/random.ts';
import type { TestContext } from '../fixtures/served-node.ts';

/** A folder on a filesystem, and one on a tmpfs, which knows neither RWF_NOWAIT nor FIEMAP. */
const onDisk = t.testdir();
const inMemory = fs.mkdtempSync('/dev/shm/tidemark-disk-');
t.teardown(() => fs.rmSync(inMemory, { recursive: true, force: true }));

/** Random requests against a byte array; every second one on a range that the one before it touched. */
async function againstModel(disk: Disk, random: Random, steps: number): Promise<void> {
  const size = disk.sizeBytes;
  const model = Buffer.alloc(size);
  await disk.read(model, 0, size, 0);
  const unit = () => random.pick([1, 512, 4096]);
  for (let step = 0; step < steps; step++) {
    const by = unit();
    const offset = Math.floor(random.below(size) / by) * by;
    const length = Math.min(size - offset, random.between(1, 20) * by, 200_000);
    const kind = random.below(6);
    if (kind < 2) {
      const bytes = random.bytes(length + 3);
      bytes.copy(model, offset, 3);
      if (!disk.tryWrite(bytes, 3, length, offset)) await disk.write(bytes, 3, length, offset);
    } else if (kind === 2) {
      await disk.punch(offset, length);
      model.fill(0, offset, offset + length);
    } else if (kind === 3) {
      await disk.zero(offset, length, false);
      model.fill(0, offset, offset + length);
    } else {
      const bytes = Buffer.alloc(length + 5, 0xee);
      if (!disk.tryRead(bytes, 5, length, offset)) await disk.read(bytes, 5, length, offset);
      const right = bytes.subarray(5).equals(model.subarray(offset, offset + length));
      if (!right || !bytes.subarray(0, 5).equals(Buffer.alloc(5, 0xee)))
        throw new Error(`seed ${random.seed} step ${step}: ${length} bytes at ${offset} differ`);
    }
    if (random.chance(0.05)) await disk.sync();
  }
  const all = Buffer.alloc(size);
  await disk.read(all, 0, size, 0);
  if (!all.equals(model)) throw new Error(`seed ${random.seed}: the content differs`);
  let at = 0;
  for (const extent of await disk.extents(0, size, 1000)) {
    const range = model.subarray(at, at + extent.lengthBytes);
    if (extent.zero && range.some((byte) => byte !== 0)) throw new Error(`a hole at ${at} has data`);
    at += extent.lengthBytes;
  }
  if (at !== size) throw new Error(`extents end at ${at}`);
}

for (const [name, path] of [
  ['a filesystem', onDisk],
  ['a tmpfs', inMemory],
] as const) {
  t.test(`${name}: content is that of a byte array`, async (t) => {
    // The size is no multiple of a page, so that the last page is short.
    const disk = await FileDisk.create(join(path, 'model.img'), 1 * MIB + 1536);
    await againstModel(disk, new Random(11), 400);
    await disk.close();
    t.pass();
  });

  t.test(`${name}: requests at once on disjoint ranges do not disturb each other`, async (t) => {
    const disk = await FileDisk.create(join(path, 'disjoint.img'), 1 * MIB);
    const random = new Random(5);
    const model = Buffer.alloc(1 * MIB);
    for (let round = 0; round < 20; round++) {
      const work: Promise<void>[] = [];
      // Pieces of 1000 bytes: neighbours share pages.
      for (let at = 0; at + 1000 <= 40_000; at += 1000) {
        const value = random.below(256);
        const kind = random.below(3);
        model.fill(kind === 0 ? value : 0, at, at + 1000);
        if (kind === 0) {
          const bytes = Buffer.alloc(1000, value);
          if (!disk.tryWrite(bytes, 0, 1000, at)) work.push(disk.write(bytes, 0, 1000, at));
        } else work.push(kind === 1 ? disk.punch(at, 1000) : disk.zero(at, 1000, false));
      }
      await Promise.all([...work, disk.sync()]);
      const now = Buffer.alloc(40_000);
      await disk.read(now, 0, now.length, 0);
      if (!now.equals(model.subarray(0, 40_000))) throw new Error(`round ${round} differs`);
    }
    await disk.close();
    t.pass();
  });

  t.test(`${name}: what was punched is a hole, what was written is none`, async (t) => {
    const disk = await FileDisk.create(join(path, 'holes.img'), 1 * GIB);
    const bytes = Buffer.alloc(64 * KIB, 1);
    await disk.write(bytes, 0, bytes.length, 512 * KIB);
    const before = await disk.extents(0, 1 * MIB, 10);
    t.equal(
      before.some((extent) => !extent.hole && extent.lengthBytes >= 64 * KIB),
      true,
      'fresh data is data before any sync',
    );
    await disk.punch(512 * KIB, 64 * KIB);
    const after = await disk.extents(0, 1 * MIB, 10);
    if (path === onDisk) {
      t.same(before[0], { lengthBytes: 512 * KIB, hole: true, zero: true });
      t.same(after, [{ lengthBytes: 1 * MIB, hole: true, zero: true }]);
      t.same(await disk.extents(0, 1 * MIB, 1), after);
    } else
      t.same(after, [{ lengthBytes: 1 * MIB, hole: false, zero: false }], 'where nobody tells, all is data');
    const back = Buffer.alloc(64 * KIB, 7);
    await disk.read(back, 0, back.length, 512 * KIB);
    t.ok(back.equals(Buffer.alloc(64 * KIB)));
    await disk.prefetch(0, 1 * MIB);
    await disk.close();
  });
}

t.test('the cache answers at once', async (t) => {
  const path = join(onDisk, 'cached.img');
  const disk = await FileDisk.create(path, 4 * MIB);
  const bytes = Buffer.alloc(4096, 9);
  t.equal(disk.tryWrite(bytes, 0, 4096, 8192), true, 'a whole page never waits');
  t.equal(disk.tryRead(bytes, 0, 4096, 8192), true, 'and is then in the cache');
  t.equal(disk.tryWrite(bytes, 0, 100, 8200), true, 'so that a part of it can be written at once');
  t.equal(disk.tryWrite(bytes, 0, 4096, 4 * MIB - 4096), true, 'the end of the disk is no edge');
  const large = Buffer.alloc(2 * MIB);
  t.equal(disk.tryWrite(large, 0, large.length, 0), false, 'large ones are not done while others wait');
  t.equal(disk.tryRead(large, 0, large.length, 0), false);
  await disk.sync();
  await disk.close();
});

t.test('what is not in the cache is there all the same', async (t) => {
  const path = join(onDisk, 'cold.img');
  const random = new Random(9);
  const model = random.bytes(2 * MIB);
  fs.writeFileSync(path, model);
  const disk = await FileDisk.open(path);
  let waited = 0;
  for (let step = 0; step < 30; step++) {
    await disk.sync();
    // GNU dd: drops the file from the page cache.
    execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' });
    const offset = random.below(2 * MIB - 10_000);
    const length = random.between(1, 10_000);
    if (step % 2 === 0) {
      const bytes = Buffer.alloc(length, step);
      bytes.copy(model, offset);
      if (!disk.tryWrite(bytes, 0, length, offset)) {
        waited++;
        await disk.write(bytes, 0, length, offset);
      }
    }
    const around = Buffer.alloc(Math.min(2 * MIB - offset, 20_000));
    if (!disk.tryRead(around, 0, around.length, offset)) {
      waited++;
      await disk.read(around, 0, around.length, offset);
    }
    t.ok(around.equals(model.subarray(offset, offset + around.length)), `${length} bytes at ${offset}`);
  }
  t.comment(`${waited} of 45 had to wait`);
  await disk.close();
});

t.test('a file that was cut short, an error, and ranges outside', async (t) => {
  const path = join(onDisk, 'short.img');
  const disk = await FileDisk.create(path, 64 * KIB);
  fs.truncateSync(path, 10_000);
  const bytes = Buffer.alloc(8192);
  t.equal(disk.tryRead(bytes, 0, 8192, 8192), false);
  await t.rejects(disk.read(bytes, 0, 8192, 8192), { code: 'disk', message: /ends at 10000/ });
  t.throws(() => disk.tryRead(bytes, 0, 1, 64 * KIB), /bug/);
  t.throws(() => disk.tryRead(bytes, 8000, 200, 0), /bug/);
  t.throws(() => disk.tryWrite(bytes, 0, 2, -1), /bug/);
  await disk.close();
  t.throws(() => disk.tryRead(bytes, 0, 1, 0), /bug/);
});

t.test('a file that was cut short has data beyond its end, not zeroes', async (t) => {
  const path = join(onDisk, 'cut.img');
  const disk = await FileDisk.create(path, 64 * KIB);
  const bytes = Buffer.alloc(4 * KIB, 1);
  await disk.write(bytes, 0, bytes.length, 8 * KIB);
  fs.truncateSync(path, 20 * KIB);
  const kinds = async (start: number, length: number, most = 10) =>
    (await disk.extents(start, length, most)).map(({ lengthBytes, hole, zero }) => [
      lengthBytes / KIB,
      hole ? 'hole' : 'data',
      zero,
    ]);
  const whole = [
    [8, 'hole', true],
    [4, 'data', false],
    [8, 'hole', true],
    [44, 'data', false],
  ];
  t.same(await kinds(0, 64 * KIB), whole);
  t.same(await kinds(0, 64 * KIB, 3), whole.slice(0, 3));
  t.same(await kinds(16 * KIB, 8 * KIB, 1), [[4, 'hole', true]]);
  t.same(await kinds(32 * KIB, 8 * KIB), [[8, 'data', false]]);
  fs.truncateSync(path, 0);
  t.same(await kinds(0, 64 * KIB), [[64, 'data', false]]);
  fs.truncateSync(path, 64 * KIB);
  t.same(await kinds(0, 64 * KIB), [[64, 'hole', true]], 'one that grew again has zeroes');
  await disk.close();
});

t.test('writing zeroes leaves everybody else their turn, and ends when the disk is closed', async (t) => {
  const disk = await FileDisk.create(join(inMemory, 'turns.img'), 256 * MIB);
  // The first call finds out that a tmpfs cannot zero by itself.
  await disk.zero(0, 4096, false);
  let turns = 0;
  let counting = true;
  const count = (): void => {
    turns++;
    if (counting) setImmediate(count);
  };
  setImmediate(count);
  await disk.zero(0, 32 * MIB, false);
  t.ok(turns >= 31, `${turns} turns of the event loop for 32 pieces`);
  const long = disk.zero(0, 256 * MIB, false);
  const queued = disk.zero(0, 8192, false);
  const ended = Promise.allSettled([long, queued]);
  await disk.close();
  counting = false;
  for (const result of await ended)
    t.match(result, { status: 'rejected', reason: { code: 'unavailable', errno: 'ESHUTDOWN' } });
});

t.test('a turnstile lets so many in, in the order in which they came', async (t) => {
  const inTurn = turnstile(3);
  const order: number[] = [];
  let running = 0;
  let most = 0;
  const work = Array.from({ length: 20 }, (_, number) =>
    inTurn(async () => {
      order.push(number);
      most = Math.max(most, ++running);
      for (let turns = number % 4; turns >= 0; turns--) await Promise.resolve();
      running--;
      if (number % 5 === 0) throw new Error('failed');
      return number;
    }),
  );
  const results = await Promise.allSettled(work);
  t.equal(most, 3);
  t.same(
    order,
    Array.from({ length: 20 }, (_, number) => number),
  );
  t.same(results.filter(({ status }) => status === 'rejected').length, 4, 'one that fails leaves as well');
  t.equal(await inTurn(async () => 7), 7);
});

t.test('a full disk and a file too large are told by their errno', async (t) => {
  const full = await FileDisk.open('/dev/full').catch((error: unknown) => error);
  t.match(full, { code: 'invalid', message: /neither a regular file nor a block device/ });
  await t.rejects(FileDisk.create(join(onDisk, 'huge.img'), 4096 * TIB), { code: 'disk', errno: 'EFBIG' });
  t.equal(fs.existsSync(join(onDisk, 'huge.img')), false, 'and nothing is left behind');
});

t.test('a refusal says what to do, in one line', async (t) => {
  const path = (name: string): string => join(onDisk, 'refusals', name);
  fs.mkdirSync(path(''));
  fs.symlinkSync(path('nothing'), path('dangling'));
  fs.symlinkSync(path('circle'), path('circle'));
  fs.writeFileSync(path('file'), '');
  const create = (name: string) => () => FileDisk.create(path(name), 512);
  const open = (name: string) => () => FileDisk.open(path(name));
  const cases: [() => Promise<FileDisk>, string, RegExp][] = [
    [
      () => FileDisk.create(path('huge'), 4096 * TIB),
      'disk',
      /cannot hold a file of 4503599627370496 bytes.*smaller/,
    ],
    [create('file'), 'exists', /exists already: name another/],
    [create('no/x'), 'not-found', /the folder \S*refusals\/no does not exist: make it first/],
    [create('file/x'), 'not-found', /refusals\/file is no folder/],
    [create('dangling'), 'invalid', /symbolic link to a file that does not exist: make/],
    [create('n'.repeat(300)), 'disk', /ENAMETOOLONG.*use a shorter one/],
    [create('circle/x'), 'disk', /ELOOP.*name the file itself/],
    [open('no/x'), 'not-found', /the folder \S*refusals\/no does not exist: make it first/],
    [open('file/x'), 'not-found', /refusals\/file is no folder/],
    [open('none'), 'not-found', /refusals\/none does not exist/],
    [open('dangling'), 'invalid', /symbolic link to a file that does not exist: make/],
    [open('circle'), 'disk', /ELOOP.*name the file itself/],
    [open(''), 'invalid', /neither a regular file nor a block device: name/],
  ];
  for (const [attempt, code, message] of cases) {
    const error = await attempt().then(
      () => undefined,
      (thrown: Error) => thrown,
    );
    t.match(error, { code, message });
    t.notMatch(error?.message, /\n/);
  }
  t.same(fs.readdirSync(path('')).sort(), ['circle', 'dangling', 'file'], 'and nothing is made');
  for (const errno of ['ENOSPC', 'EDQUOT', 'EROFS', 'EACCES', 'EPERM', 'EMFILE', 'EIO']) {
    const cause = Object.assign(new Error('x'), { code: errno });
    t.match(diskError('/f', 'a write', cause), {
      code: 'disk',
      errno,
      message: /^\/f: a write failed: E\w+, .*[;,] /,
    });
  }
});

t.test('errnos of calls on the pool are not mixed up', async (t) => {
  const socket = fs.openSync('/dev/null', 'r+');
  const calls = Array.from({ length: 100 }, (_, i) => fallocate(i % 2 === 0 ? 99_999 : socket, 0, 0, 1));
  const errnos = await Promise.all(calls);
  t.same(new Set(errnos.filter((_, i) => i % 2 === 0)), new Set(['EBADF']));
  t.same(new Set(errnos.filter((_, i) => i % 2 === 1)), new Set(['ENODEV']));
  fs.closeSync(socket);
});

t.test('a folder of disks', async (t) => {
  const folder = await FileFolder.open(join(onDisk, 'folder'));
  const disk = await folder.create('volumes/a.img', 1 * TIB);
  t.equal(disk.sizeBytes, 1 * TIB);
  t.ok(fs.statSync(join(folder.path, 'volumes/a.img')).blocks < 100, 'sparse');
  await t.rejects(folder.create('volumes/a.img', 512), { code: 'exists' });
  await t.rejects(folder.open('volumes/a.img'), { code: 'in-use' });
  await t.rejects(folder.openOutside(join(folder.path, 'volumes', 'a.img')), { code: 'in-use' });
  fs.symlinkSync(join(folder.path, 'volumes/a.img'), join(onDisk, 'link'));
  await t.rejects(folder.openOutside(join(onDisk, 'link')), { code: 'in-use' }, 'by any name');
  await disk.close();
  await disk.close();
  await (await folder.open('volumes/a.img')).close();
  t.same(await folder.list(), ['volumes/a.img']);
  await folder.remove('volumes/a.img');
  await folder.remove('volumes/a.img');
  t.same(await folder.list(), []);
  await t.rejects(folder.open('volumes/a.img'), { code: 'not-found' });
  await t.rejects(folder.openOutside(onDisk), { code: 'invalid' });
  await t.rejects(folder.createOutside(join(onDisk, 'none', 'a.img'), 512), { code: 'not-found' });
  await t.rejects(FileFolder.open(join(onDisk, 'none', 'folder')), { code: 'not-found' });
  await t.rejects(folder.open('../link'), /bug/);
  await t.rejects(folder.create('', 512), /bug/);
});

/** The loop device of a file; undefined, with a note, where it is known that there can be none. Else a missing one fails the test. */
function attachLoop(t: TestContext, file: string): string | undefined {
  try {
    return execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch (error) {
    const { CI, TIDEMARK_TEST_WITHOUT_TOOLS } = process.env;
    const impossible = CI !== 'true' && !fs.existsSync('/dev/loop-control');
    if (TIDEMARK_TEST_WITHOUT_TOOLS === '1' || impossible)
      t.comment('skipped: this machine has no loop devices, so that no block device was tested');
    else t.fail(`no loop device: run as root, or set TIDEMARK_TEST_WITHOUT_TOOLS=1; ${String(error)}`);
    return undefined;
  }
}

t.test('a block device, where a loop device can be had', async (t) => {
  const file = join(onDisk, 'loop.img');
  fs.writeFileSync(file, '');
  fs.truncateSync(file, 8 * MIB);
  const device = attachLoop(t, file);
  if (device === undefined) return;
  t.teardown(() => execFileSync('losetup', ['--detach', device]));
  const disk = await FileDisk.open(device);
  t.same([disk.sizeBytes, disk.device], [8 * MIB, true]);
  await t.rejects(FileDisk.open(device), { code: 'in-use' });
  await againstModel(disk, new Random(3), 200);
  await t.rejects(disk.zero(0, 4096, true), { code: 'disk', errno: 'ENOTSUP' });
  t.same(await disk.extents(0, 8 * MIB, 5), [{ lengthBytes: 8 * MIB, hole: false, zero: false }]);
  await disk.close();
});

t.test('writeNow writes whatever its size, and says nothing of the cache', async (t) => {
  const disk = await FileDisk.create(join(onDisk, 'now.img'), 4 * MIB);
  const bytes = new Random(3).bytes(2 * MIB + 100);
  t.equal(disk.mayWriteInline, true);
  disk.writeNow(bytes, 100, 2 * MIB, 4096);
  const back = Buffer.alloc(2 * MIB);
  await disk.read(back, 0, back.length, 4096);
  t.ok(back.equals(bytes.subarray(100)));
  t.throws(() => disk.writeNow(bytes, 0, 4097, 4 * MIB - 4096), /bug/);
  // On a busy machine the write above may have counted as held up, until a sync.
  await disk.sync();
  t.equal(disk.mayWriteInline, true);
  const zeroing = disk.zero(0, 1 * MIB, false);
  t.equal(disk.mayWriteInline, false, 'a long call holds the inode');
  await zeroing;
  t.equal(disk.mayWriteInline, true);
  await disk.close();
});

t.test('an image is read beside whoever has it open, and never written', async (t) => {
  const path = join(onDisk, 'image.img');
  const folder = await FileFolder.open(onDisk);
  const owner = await folder.create('image.img', 64 * KIB);
  await owner.write(Buffer.alloc(4096, 5), 0, 4096, 8192);
  const image = await folder.openImage(path);
  t.equal(image.sizeBytes, 64 * KIB);
  const back = Buffer.alloc(4096);
  await image.read(back, 0, 4096, 8192);
  t.ok(back.equals(Buffer.alloc(4096, 5)));
  t.throws(() => image.tryWrite(back, 0, 1, 0), /bug: the disk is open for writing/);
  t.throws(() => image.writeNow(back, 0, 1, 0), /bug/);
  await t.rejects(image.write(back, 0, 1, 0), /bug/);
  await t.rejects(image.punch(0, 1), /bug/);
  await t.rejects(image.zero(0, 1, false), /bug/);
  await image.close();
  await owner.close();
  await t.rejects(folder.openImage(join(onDisk, 'none.img')), { code: 'not-found' });
  await t.rejects(folder.openImage(onDisk), { code: 'invalid', message: /neither a regular file nor/ });
});

t.test('nested folders come with their first disk and go with their last', async (t) => {
  const folder = await FileFolder.open(join(onDisk, 'nested'));
  for (const name of ['snapshots/1/a.img', 'snapshots/1/b.img', 'top.img'])
    await (await folder.create(name, 4096)).close();
  t.same(await folder.list(), ['snapshots/1/a.img', 'snapshots/1/b.img', 'top.img']);
  await folder.remove('snapshots/1/a.img');
  t.ok(fs.existsSync(join(folder.path, 'snapshots/1')));
  // One makes a disk where another removes the last one, over and over.
  await Promise.all([
    folder.remove('snapshots/1/b.img'),
    folder.create('snapshots/1/c.img', 4096).then((disk) => disk.close()),
  ]);
  t.same(await folder.list(), ['snapshots/1/c.img', 'top.img']);
  await folder.remove('snapshots/1/c.img');
  await folder.remove('snapshots/1/never.img');
  t.same(fs.readdirSync(folder.path), ['top.img']);
  const { freeBytes, totalBytes } = await folder.space();
  t.ok(freeBytes > 0 && freeBytes < totalBytes);
});
