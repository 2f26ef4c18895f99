import { join } from 'node:path';
import t from 'tap';
import type { DiskFolder } from '../../engine/disk/disk.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { GROUP_RECORD_MAGIC, groupRecordHeaderLayout, seal } from '../../engine/formats.ts';
import { createGroup, destroyGroup, type OpenGroup, openGroup } from '../../engine/group-files.ts';
import { GROUP_RECORD_FILE_BYTES } from '../../engine/group-record.ts';
import { checkLogSize, type GroupSpec, minLogBytes } from '../../engine/group-spec.ts';
import { MIN_LOG_BYTES } from '../../engine/log/limits.ts';
import { Log } from '../../engine/log/log.ts';
import { maxEncodedBytes } from '../../engine/map/map-runs.ts';
import { GIB, KIB, MIB, TIB } from '../../engine/units.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const spec: GroupSpec = {
  name: 'g',
  regionBytes: 64 * KIB,
  volumes: [
    { name: 'a', sizeBytes: 1 * MIB },
    { name: 'b', sizeBytes: 512 },
  ],
};
const clock = new ManualClock();
const newFolder = (seed = 1) => new MemoryFolder(new Random(seed));

async function closeAll(group: OpenGroup): Promise<void> {
  for (const { disk, map } of group.parts) {
    await map.close();
    await disk.close();
  }
  await group.logDisk.close();
  await group.file.close();
}

/** Opens the log, which takes its disk over, and tells where it begins. */
async function logOf(group: OpenGroup): Promise<{ capacityBytes: number; endLsn: number }> {
  const { log } = await Log.open(
    group.logDisk,
    { groupId: group.record.id },
    group.record.checkpointLsn,
    clock,
  );
  const found = { capacityBytes: log.capacityBytes, endLsn: log.endLsn };
  await log.close();
  return found;
}

t.test('a group has its log from the first moment, where and as large as it was asked for', async (t) => {
  const cases: [Partial<GroupSpec>, number, string | undefined, number][] = [
    [{}, 1 * GIB, undefined, 0],
    [{ logBytes: MIN_LOG_BYTES, onFull: 'give-up' }, MIN_LOG_BYTES, undefined, 2 ** 44 - 10],
    [{ logBytes: 1 * MIB, logFile: '/outside/new' }, 1 * MIB, '/outside/new', 2 ** 53 - 2 ** 22],
    [{ logFile: '/outside/blank' }, 3 * MIB - 8 * KIB, '/outside/blank', 5],
    [{ logBytes: 1 * MIB, logFile: '/outside/blank' }, 1 * MIB, '/outside/blank', 5],
    [{ logFile: '/outside/other' }, 1 * GIB, '/outside/other', 0],
  ];
  for (const [more, sizeBytes, file, firstLsn] of cases) {
    const folder = newFolder();
    await (await folder.create('/outside/blank', 3 * MIB + 100)).close();
    await closeAll(await createGroup(folder, { ...spec, ...more }, clock, { firstLsn }));
    const group = await openGroup(folder, clock);
    const { record, parts, warnings } = group;
    t.same(record.log, file === undefined ? { sizeBytes } : { sizeBytes, file });
    t.same(
      [
        record.state,
        record.onFull,
        record.checkpointLsn,
        record.generation.number,
        record.generation.firstLsn,
      ],
      ['ready', more.onFull ?? 'hold', firstLsn, 1, firstLsn],
    );
    t.same([record.nodes, record.voided, record.detached, warnings], [[], [], [], []]);
    t.same(
      parts.map(({ identity, disk }) => [identity.name, identity.regionBytes, disk.sizeBytes]),
      [
        ['a', 64 * KIB, 1 * MIB],
        ['b', 64 * KIB, 512],
      ],
    );
    t.same(await logOf(group), { capacityBytes: sizeBytes, endLsn: firstLsn });
    await closeAll(group);
    await destroyGroup(folder);
    t.same(await folder.list(), []);
    t.equal(folder.media.has(file ?? '/outside/blank'), true, 'files outside stay');
    if (file === undefined) continue;
    const again = createGroup(folder, { ...spec, logBytes: 1 * MIB, logFile: file }, clock);
    await t.rejects(
      again,
      { code: 'exists', message: /holds something/ },
      'also the log of a group that is gone',
    );
    t.same(await folder.list(), []);
  }
});

t.test('L7: a ring takes a record with the full maps of all volumes', (t) => {
  const terabyte = [{ sizeBytes: 1 * TIB }];
  const needed = minLogBytes(terabyte, 64 * KIB);
  t.ok(needed / 4 >= 2 * maxEncodedBytes(TIB / (64 * KIB)) && needed < 32 * MIB, `${needed}`);
  t.doesNotThrow(() => checkLogSize(needed, terabyte, 64 * KIB));
  t.throws(() => checkLogSize(needed - 4096, terabyte, 64 * KIB), {
    code: 'invalid',
    message: new RegExp(`${needed} bytes would do`),
  });
  t.equal(minLogBytes([{ sizeBytes: 512 }], 4096), MIN_LOG_BYTES);
  t.end();
});

t.test('a default log is larger than usual where the volumes need it', async (t) => {
  const folder = newFolder();
  const volumes = [{ name: 'huge', sizeBytes: 1024 * TIB }];
  const group = await createGroup(folder, { ...spec, volumes }, clock);
  t.equal(group.record.log.sizeBytes, minLogBytes(group.record.volumes, 64 * KIB));
  t.ok(group.record.log.sizeBytes > 1 * GIB);
  await closeAll(group);
});

t.test('a log that is gone, or was cut short, is told', async (t) => {
  const folder = newFolder();
  await closeAll(await createGroup(folder, spec, clock));
  const medium = folder.media.get('log.ring');
  if (medium === undefined) throw new Error('no log');
  medium.sizeBytes -= 4096;
  for (let i = 0; i < 2; i++)
    await t.rejects(openGroup(folder, clock), { code: 'corrupt', message: /its log, log\.ring, has/ });
  await folder.remove('log.ring');
  await t.rejects(openGroup(folder, clock), { code: 'corrupt', message: /is not there: put it back/ });
  await (await folder.create('log.ring', Log.bytesNeeded(1 * GIB))).close();
  const group = await openGroup(folder, clock);
  await t.rejects(logOf(group), { code: 'corrupt' }, 'a blank one is no log');
});

t.test('a blank file of the user is blank again when creation fails', async (t) => {
  for (let nth = 1, reached = true; reached; nth++) {
    const folder = newFolder(nth);
    await (await folder.create('/outside/blank', 1 * MIB)).close();
    let count = 0;
    folder.faults.decide = (operation) => (operation !== 'read' && ++count === nth ? 'EIO' : undefined);
    const made = await createGroup(folder, { ...spec, logFile: '/outside/blank' }, clock).catch(
      () => undefined,
    );
    reached = count >= nth;
    folder.faults.decide = undefined;
    if (made !== undefined) await closeAll(made);
    else {
      t.same(await folder.list(), [], `operation ${nth}`);
      await closeAll(await createGroup(folder, { ...spec, logFile: '/outside/blank' }, clock));
    }
  }
});

/** Turns a group into one that version 1 made. */
async function outdate(folder: DiskFolder): Promise<void> {
  const group = await openGroup(folder, clock);
  const { state, id, name, role, createdAt, regionBytes, volumes } = group.record;
  await closeAll(group);
  await folder.remove('log.ring');
  await folder.remove('group.record');
  const payload = Buffer.from(JSON.stringify({ state, id, name, role, createdAt, regionBytes, volumes }));
  const bytes = Buffer.alloc(groupRecordHeaderLayout.span + payload.length);
  groupRecordHeaderLayout.encode(
    {
      crc: 0,
      version: 1,
      magic: GROUP_RECORD_MAGIC,
      sequence: 2n,
      payloadBytes: payload.length,
      reserved: 0,
    },
    bytes,
  );
  payload.copy(bytes, groupRecordHeaderLayout.span);
  seal(bytes);
  const disk = await folder.create('group.record', GROUP_RECORD_FILE_BYTES);
  await disk.write(bytes, 0, bytes.length, 0);
  await disk.sync();
  await disk.close();
}

t.test('a group of version 1 gets its log when it is opened, whatever cuts that short', async (t) => {
  for (let nth = 1, reached = true; reached; nth++) {
    for (const crash of [false, true]) {
      const folder = newFolder(nth);
      await closeAll(await createGroup(folder, spec, clock));
      await outdate(folder);
      let count = 0;
      folder.faults.decide = (operation) => {
        if (operation === 'read' || ++count !== nth) return undefined;
        if (crash) folder.crash();
        return 'EIO';
      };
      const first = await openGroup(folder, clock).catch(() => undefined);
      reached = count >= nth;
      folder.faults.decide = undefined;
      if (first !== undefined && !reached) await closeAll(first);
      else folder.crash();
      const group = await openGroup(folder, clock);
      t.same(group.record.log, { sizeBytes: 1 * GIB }, `operation ${nth}`);
      t.equal(group.record.generation.id, group.record.id);
      t.same(await logOf(group), { capacityBytes: 1 * GIB, endLsn: 0 });
      await closeAll(group);
    }
  }
});

t.test(
  'a group takes along what its snapshots and restores keep, and leaves what is not its own',
  async (t) => {
    const folder = newFolder();
    await closeAll(await createGroup(folder, spec, clock));
    for (const name of ['snapshots/1/a.preserved', 'snapshots/1/b.changed-2', 'restores/3/a.map', 'notes'])
      await (await folder.create(name, 512)).close();
    await destroyGroup(folder);
    t.same(await folder.list(), ['notes']);
    await (await folder.create('snapshots/1/a.preserved', 512)).close();
    const refused = createGroup(folder, spec, clock);
    await t.rejects(refused, {
      code: 'corrupt',
      message: /snapshots\/1\/a\.preserved.*without an intact record/,
    });
  },
);

t.test('a real folder: made, opened, removed', async (t) => {
  const folder = await FileFolder.open(join(t.testdir(), 'group'));
  await closeAll(await createGroup(folder, { ...spec, logBytes: 1 * MIB }, clock));
  const group = await openGroup(folder, clock);
  t.same(await logOf(group), { capacityBytes: 1 * MIB, endLsn: 0 });
  await closeAll(group);
  await destroyGroup(folder);
  t.same(await folder.list(), []);
});
