import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Disk } from '../../engine/disk/disk.ts';
import { FileDisk } from '../../engine/disk/file-disk.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { fallocate } from '../../engine/disk/native.ts';
import { GIB, KIB, MIB, TIB } from '../../engine/units.ts';
import { Random } from '../fixtures/random.ts';

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

t.test('a full disk and a file too large are told by their errno', async (t) => {
  const full = await FileDisk.open('/dev/full').catch((error: unknown) => error);
  t.match(full, { code: 'invalid', message: /neither a regular file nor a block device/ });
  await t.rejects(FileDisk.create(join(onDisk, 'huge.img'), 4096 * TIB), { code: 'disk', errno: 'EFBIG' });
  t.equal(fs.existsSync(join(onDisk, 'huge.img')), false, 'and nothing is left behind');
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

t.test('a block device, where a loop device can be had', async (t) => {
  const file = join(onDisk, 'loop.img');
  fs.writeFileSync(file, '');
  fs.truncateSync(file, 8 * MIB);
  let device: string;
  try {
    device = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    t.comment('no loop device can be set up here (no root, or no module)');
    const refused = FileDisk.open('/dev/null');
    await t.rejects(refused, { code: 'invalid' });
    return;
  }
  t.teardown(() => execFileSync('losetup', ['--detach', device]));
  const disk = await FileDisk.open(device);
  t.same([disk.sizeBytes, disk.device], [8 * MIB, true]);
  await t.rejects(FileDisk.open(device), { code: 'in-use' });
  await againstModel(disk, new Random(3), 200);
  await t.rejects(disk.zero(0, 4096, true), { code: 'disk', errno: 'ENOTSUP' });
  t.same(await disk.extents(0, 8 * MIB, 5), [{ lengthBytes: 8 * MIB, hole: false, zero: false }]);
  await disk.close();
});
