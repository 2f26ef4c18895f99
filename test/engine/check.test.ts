import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { CheckReport, Severity } from '../../engine/check/report.ts';
import { SEVERITIES } from '../../engine/check/report.ts';
import { checkGroup } from '../../engine/check.ts';
import { systemClock } from '../../engine/clock.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { EngineError } from '../../engine/errors.ts';
import {
  GROUP_RECORD_MAGIC,
  GROUP_RECORD_SLOT_BYTES,
  groupRecordHeaderLayout,
  LOG_RING_OFFSET_BYTES,
  LOG_SLOT_BYTES,
  MAP_SECTORS_OFFSET_BYTES,
  SECTOR_BYTES,
  STORE_MAP_OFFSET_BYTES,
  seal,
} from '../../engine/formats.ts';
import { Group } from '../../engine/group.ts';
import { KIB, MIB } from '../../engine/units.ts';
import { GatedFolder, GroupBench, REGION } from '../fixtures/group-bench.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import type { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

/** A stopped group with something of everything: snapshots, written ones, detached ones, a refresh and a restore under way, a log to apply. */
async function everything(): Promise<GroupBench> {
  const bench = await GroupBench.make({
    regions: 16,
    volumes: ['v', 'w'],
    group: { copyBytesPerSecond: 1 },
  });
  const { group } = bench;
  for (let region = 0; region < 16; region++) await bench.write(region, region + 1);
  await group.createSnapshot('alone');
  await group.createSnapshot('again');
  for (const name of ['alone', 'again']) {
    await group.detachSnapshot(name);
    await group.settled();
    await bench.write(15, 40, 1, bench.snapshot(name));
  }
  await bench.write(0, 50, 3);
  await group.createSnapshot('a');
  await bench.write(2, 60, 4);
  await group.createSnapshot('b');
  await bench.write(5, 70, 3);
  await bench.write(8, 80, 1, bench.snapshot('b'));
  await group.settled();
  bench.watch((operation, name) => (operation === 'write' && name.endsWith('.copied') ? 'EIO' : undefined));
  await group.refreshSnapshot('again', { force: true });
  await group.restore('b');
  await bench.pass(60);
  await bench.write(9, 90, 2);
  await bench.write(3, 90, 1, bench.volume('w'));
  await bench.volume().flush();
  bench.cut();
  // It holds nothing, and takes its time.
  bench.folder.media.delete('reserve');
  return bench;
}

type Sectors = ReadonlyMap<string, ReadonlyMap<number, Buffer>>;

function contents(folder: MemoryFolder): Sectors {
  return new Map([...folder.media].map(([name, { now }]) => [name, new Map(now)]));
}

function isSame(folder: MemoryFolder, before: Sectors): boolean {
  if (folder.media.size !== before.size) return false;
  for (const [name, sectors] of before) {
    const medium = folder.media.get(name);
    if (medium === undefined || medium.now.size !== sectors.size || medium.versions.size > 0) return false;
    for (const [number, bytes] of sectors) if (medium.now.get(number) !== bytes) return false;
  }
  return true;
}

/** A copy that may be changed. */
async function copyOf(folder: MemoryFolder): Promise<GatedFolder> {
  const copy = new GatedFolder(new Random(7));
  for (const [name, medium] of folder.media) {
    await (await copy.create(name, medium.sizeBytes)).close();
    const now = copy.media.get(name)?.now;
    for (const [number, bytes] of medium.now) now?.set(number, bytes);
  }
  return copy;
}

const isAtLeast = (severity: Severity, least: Severity): boolean =>
  SEVERITIES.indexOf(severity) >= SEVERITIES.indexOf(least);

/** What the engine makes of it: what it refuses, what it warns of, and what everything reads as. */
async function engineView(
  folder: MemoryFolder,
): Promise<{ refused: boolean; doubtful: boolean; seen: string }> {
  const copy = await copyOf(folder);
  copy.faults.decide = (_, name) => (name === 'reserve' ? 'ENOSPC' : undefined);
  let group: Group;
  try {
    group = await Group.open(copy, new ManualClock(), { copyBytesPerSecond: 1 });
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    return { refused: true, doubtful: true, seen: '' };
  }
  let doubtful = group.warnings.some((warning) => !/torn/.test(warning));
  const seen: string[] = [];
  for (const name of [undefined, ...group.snapshots.map((snapshot) => snapshot.name)])
    for (const volume of group.volumes.values()) {
      const device = name === undefined ? volume : group.snapshotVolume(name, volume.name);
      const bytes = Buffer.alloc(volume.sizeBytes);
      for (let at = 0; at < volume.sizeBytes; at += REGION)
        await device?.read(bytes, at, REGION, at).catch(() => {
          doubtful = true;
        });
      const fills = Array.from({ length: 16 }, (_, region) => bytes[region * REGION]);
      seen.push(`${name ?? 'head'} ${volume.name} ${fills}`);
    }
  await group.close().catch(() => {});
  return { refused: false, doubtful, seen: seen.sort().join('\n') };
}

/** Flips a bit, and returns how to flip it back. */
function flip(folder: MemoryFolder, name: string, offsetBytes: number, bit = 0): () => void {
  const now = folder.media.get(name)?.now;
  const number = Math.floor(offsetBytes / SECTOR_BYTES);
  const old = now?.get(number);
  const bytes = Buffer.from(old ?? Buffer.alloc(SECTOR_BYTES));
  const at = offsetBytes % SECTOR_BYTES;
  bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
  now?.set(number, bytes);
  return () => {
    if (old === undefined) now?.delete(number);
    else now?.set(number, old);
  };
}

const summary = (report: CheckReport): string =>
  report.findings
    .filter(({ severity }) => severity !== 'ok')
    .map(({ severity, where, what }) => `${severity} ${where}: ${what}`)
    .join('\n');

const find = (report: CheckReport, severity: Severity, where: RegExp) =>
  report.findings.find((finding) => finding.severity === severity && where.test(finding.where));

t.test('a sound group: everything is looked at, nothing is wrong, nothing is changed', async (t) => {
  const bench = await everything();
  const before = contents(bench.folder);
  const clock = new ManualClock();
  const report = await checkGroup(bench.folder, clock);
  t.equal(report.severity, 'note', summary(report));
  t.equal(report.opens, true);
  t.match(report.group, { name: 'g', regionBytes: REGION });
  t.ok(isSame(bench.folder, before));
  t.equal(clock.timerCount, 0, 'and nothing is left behind');
  t.match(report.log, { sizeBytes: 256 * KIB, records: 2, controlRecords: 0 });
  t.equal(report.log?.replayBytes, ((report.log?.endLsn ?? 0) - (report.log?.checkpointLsn ?? 0)) * 512);
  const files = [...bench.folder.media.keys()].filter((name) => name !== 'log.ring');
  for (const name of files)
    t.ok(find(report, 'ok', new RegExp(name)) ?? find(report, 'note', new RegExp(name)), name);
  const old = report.findings.filter(
    ({ severity, what }) => severity === 'note' && /no record names/.test(what),
  );
  t.equal(old.length, 2, 'maps that a refresh has replaced');
  t.ok(find(report, 'note', /^log$/)?.what.includes('2 records'), 'what is to be applied is told');
  for (const { severity, advice } of report.findings)
    if (isAtLeast(severity, 'doubt')) t.ok(advice, 'what can be done is told');
  t.equal((await engineView(bench.folder)).doubtful, false, 'the engine thinks so too');
});

t.test(
  'a flipped bit anywhere: never throws, never writes, and finds what the engine would meet',
  async (t) => {
    const bench = await everything();
    const { folder } = bench;
    const sound = await engineView(folder);
    const random = new Random(11);
    const found = new Map<string, number>();
    for (const [name, medium] of [...folder.media]) {
      const dataStart = /preserved|modified|copied/.test(name) ? 2 * STORE_MAP_OFFSET_BYTES : 0;
      const isData = (at: number) => name.endsWith('.img') || (dataStart > 0 && at >= dataStart);
      const used = [...medium.now]
        .filter(([, bytes]) => bytes.some((byte) => byte !== 0))
        .map(([number]) => number);
      for (let trial = 0; trial < 5; trial++) {
        const inUse = used.length > 0 && random.chance(0.8);
        const number = inUse ? random.pick(used) : random.below(medium.sizeBytes / SECTOR_BYTES);
        const at = number * SECTOR_BYTES + random.below(trial % 2 === 0 ? 80 : SECTOR_BYTES);
        const back = flip(folder, name, at, random.below(8));
        const before = contents(folder);
        const report = await checkGroup(folder, new ManualClock());
        const label = `${name} at ${at}: ${summary(report)}`;
        if (!isSame(folder, before)) t.fail(`${label}: changed`);
        const view = await engineView(folder);
        if (view.refused === report.opens) t.fail(`${label}: ${view.refused ? 'it is refused' : 'it opens'}`);
        if (view.refused && !isAtLeast(report.severity, 'damage'))
          t.fail(`${label}: refused, and not damaged`);
        if (view.doubtful && !isAtLeast(report.severity, 'doubt'))
          t.fail(`${label}: doubtful, and not found`);
        // What was written last, and is known durable by nothing, reads as torn (rule L5).
        const differs = !isData(at) && view.seen !== sound.seen && !summary(report).includes('torn');
        if (differs && !isAtLeast(report.severity, 'doubt')) t.fail(`${label}: it reads otherwise`);
        found.set(report.severity, (found.get(report.severity) ?? 0) + 1);
        back();
      }
    }
    t.ok((found.get('damage') ?? 0) > 8 && (found.get('doubt') ?? 0) > 3, JSON.stringify([...found]));
    t.equal((await checkGroup(folder, new ManualClock())).severity, 'note');
  },
);

t.test('files that are cut short, blank, or not there', async (t) => {
  const bench = await everything();
  const { folder } = bench;
  const first = await checkGroup(folder, new ManualClock());
  const isOld = (name: string) => find(first, 'note', new RegExp(name)) !== undefined;
  for (const name of [...folder.media.keys()]) {
    for (const how of ['gone', 'short', 'blank'] as const) {
      const medium = folder.media.get(name);
      if (medium === undefined) throw new Error(name);
      const { sizeBytes } = medium;
      const sectors = new Map(medium.now);
      if (how === 'gone') folder.media.delete(name);
      if (how === 'short') medium.sizeBytes = 512;
      if (how === 'blank') medium.now.clear();
      const before = contents(folder);
      const report = await checkGroup(folder, new ManualClock());
      t.ok(isSame(folder, before), `${name} ${how}: unchanged`);
      const view = await engineView(folder);
      const expected: Severity = view.refused ? 'damage' : view.doubtful ? 'doubt' : 'ok';
      t.ok(isAtLeast(report.severity, expected), `${name} ${how}: ${expected}; ${summary(report)}`);
      t.equal(report.opens, !view.refused, `${name} ${how}: ${summary(report)}`);
      if (how !== 'blank' && !isOld(name))
        t.ok(isAtLeast(report.severity, 'damage'), `${name} ${how} is damage`);
      folder.media.set(name, medium);
      medium.sizeBytes = sizeBytes;
      for (const [number, bytes] of sectors) medium.now.set(number, bytes);
    }
  }
});

const nameOf = (folder: MemoryFolder, end: string): string[] =>
  [...folder.media.keys()].filter((name) => name.endsWith(end));

t.test('a damaged map of a store: who is concerned, and where', async (t) => {
  const bench = await GroupBench.make({ regions: 16 });
  for (let region = 0; region < 16; region++) await bench.write(region, region + 1);
  await bench.group.createSnapshot('older');
  await bench.write(0, 50, 2);
  await bench.group.createSnapshot('newer');
  await bench.write(1, 60, 3);
  await bench.group.createSnapshot('last');
  await bench.group.settled();
  const newer = bench.group.snapshots[1]?.id ?? '';
  await bench.group.close();
  flip(bench.folder, `snapshots/${newer}/v.preserved`, STORE_MAP_OFFSET_BYTES + 20);
  const report = await checkGroup(bench.folder, new ManualClock());
  t.same([report.severity, report.opens], ['damage', true]);
  const runsOf = (name: string) => find(report, 'damage', new RegExp(`^snapshot ${name} of`))?.regions;
  t.match(runsOf('newer'), {
    volume: 'v',
    snapshot: 'newer',
    runs: [{ first: 0, end: 16 }],
    regionCount: 16,
  });
  t.match(runsOf('older'), { runs: [{ first: 2, end: 16 }] }, 'the older one has two regions of its own');
  t.equal(runsOf('last'), undefined);
  t.equal(find(report, 'damage', /^volume/), undefined);
});

t.test('a volume that is being restored from what is damaged', async (t) => {
  const bench = await GroupBench.make({ regions: 16, group: { copyBytesPerSecond: 1 } });
  for (let region = 0; region < 16; region++) await bench.write(region, region + 1);
  await bench.group.createSnapshot('s');
  await bench.write(3, 50, 2);
  await bench.group.settled();
  const { id } = bench.group.snapshots[0] ?? { id: '' };
  await bench.group.restore('s');
  await bench.turns();
  await bench.group.close();
  flip(bench.folder, `snapshots/${id}/v.preserved`, STORE_MAP_OFFSET_BYTES + 20);
  const report = await checkGroup(bench.folder, new ManualClock());
  t.match(find(report, 'damage', /^volume v$/)?.regions, {
    volume: 'v',
    snapshot: undefined,
    regionCount: 1,
  });
});

t.test('the record: one slot, both, an older one, a later version', async (t) => {
  const bench = await GroupBench.logged();
  await bench.write(0, 1);
  await bench.group.settled();
  await bench.group.close();
  const { folder } = bench;
  const check = () => checkGroup(folder, new ManualClock());
  const first = flip(folder, 'group.record', 50);
  t.match(find(await check(), 'doubt', /group.record/), { what: /slot 0 is damaged; the other one holds/ });
  const second = flip(folder, 'group.record', GROUP_RECORD_SLOT_BYTES + 50);
  const none = await check();
  t.match(none, { severity: 'damage', opens: false, group: undefined });
  t.match(find(none, 'damage', /group.record/), { what: /neither/, advice: /backup/ });
  first();
  second();
  // A later version, intact.
  const sector = Buffer.from(bench.bytesOf('group.record', false, 0, GROUP_RECORD_SLOT_BYTES));
  const header = groupRecordHeaderLayout.decode(sector);
  t.ok(header.magic.equals(GROUP_RECORD_MAGIC));
  sector.writeUInt32LE(99, 4);
  seal(sector.subarray(0, groupRecordHeaderLayout.span + header.payloadBytes));
  const disk = await folder.open('group.record');
  await disk.write(sector, 0, sector.length, 0);
  await disk.sync();
  await disk.close();
  const later = await check();
  t.match(find(later, 'doubt', /group.record/), { what: /version 99/ });
  t.equal(later.opens, false);
});

t.test('the log: a torn tail is a note, a gap is damage, a record older than the log is told', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  bench.folder.hold('write', 'v.img');
  const { endLsn } = bench.group.log;
  for (const fill of [1, 2, 3]) {
    await bench.write(fill, fill);
    await bench.volume().flush();
  }
  bench.cut();
  const check = () => checkGroup(bench.folder, new ManualClock());
  const placeOf = (lsn: number) => LOG_RING_OFFSET_BYTES + (lsn % 512) * SECTOR_BYTES;
  const gap = flip(bench.folder, 'log.ring', placeOf(endLsn) + 100);
  const damaged = await check();
  t.match(damaged, { severity: 'damage', opens: false, log: undefined });
  t.match(find(damaged, 'damage', /^log$/)?.what, new RegExp(`damaged at LSN ${endLsn}`));
  gap();
  const torn = flip(bench.folder, 'log.ring', placeOf(endLsn + 18) + 200);
  const report = await check();
  t.match(report, { severity: 'note', opens: true, log: { records: 2 } }, summary(report));
  t.ok(report.findings.some(({ what }) => /torn/.test(what)));
  torn();
  const superblock = flip(bench.folder, 'log.ring', LOG_SLOT_BYTES + 40);
  t.match(find(await check(), 'doubt', /^log$/), { what: /superblock 1 is damaged/ });
  superblock();
  const old = bench.folder.media.get('group.record');
  const then = new Map(old?.now);
  await bench.open();
  for (let round = 0; round < 60; round++) {
    const write = bench.write(round, 4);
    await bench.pass(1, 1);
    await write;
  }
  await bench.group.settled();
  await bench.group.close();
  for (const [number, bytes] of then) old?.now.set(number, bytes);
  t.match(find(await check(), 'damage', /^log$/)?.advice, /put back from an older copy/);
});

t.test('a map of a volume: its regions count as written', async (t) => {
  const bench = await GroupBench.make({ regions: 5000 });
  await bench.write(4500, 1);
  await bench.group.close();
  const check = () => checkGroup(bench.folder, new ManualClock());
  t.equal((await check()).severity, 'ok');
  flip(bench.folder, 'maps/v.map', MAP_SECTORS_OFFSET_BYTES + SECTOR_BYTES + 10);
  const report = await check();
  t.match(report, { severity: 'doubt', opens: true });
  t.match(find(report, 'doubt', /maps/)?.regions, { volume: 'v', runs: [{ first: 4032, end: 5000 }] });
});

t.test('no group, a group in use, one that was never finished', async (t) => {
  const bench = await GroupBench.make();
  await t.rejects(checkGroup(bench.folder, new ManualClock()), { code: 'in-use' });
  await t.rejects(checkGroup(new GatedFolder(new Random(1)), new ManualClock()), { code: 'not-found' });
  await bench.group.close();
  bench.folder.faults.decide = (operation) => (operation === 'remove' ? 'EIO' : undefined);
  await Group.destroy(bench.folder).catch(() => {});
  bench.folder.faults.decide = undefined;
  const report = await checkGroup(bench.folder, new ManualClock());
  t.match(report, { severity: 'note', opens: false });
  t.match(find(report, 'note', /record/), { what: /deleting/ });
});

t.test('what cannot be read is told, and the rest is looked at', async (t) => {
  const bench = await everything();
  for (const end of ['log.ring', 'v.preserved', 'v.map', 'v.img']) {
    bench.folder.faults.decide = (operation, name) =>
      operation === 'read' && name.endsWith(end) && !name.startsWith('restores') ? 'EIO' : undefined;
    const report = await checkGroup(bench.folder, new ManualClock());
    if (end !== 'v.img') t.equal(report.severity, 'damage', end);
    t.ok(find(report, 'ok', /group.record/));
  }
  t.ok(nameOf(bench.folder, '.copied').length >= 4);
});

t.test('what a crash left is a note', async (t) => {
  const bench = await GroupBench.logged();
  await bench.group.close();
  await (
    await bench.folder.create('snapshots/00000000-0000-4000-8000-000000000000/v.preserved', 1 * MIB)
  ).close();
  await (await bench.folder.create('odd', 512)).close();
  const report = await checkGroup(bench.folder, new ManualClock());
  t.equal(report.severity, 'note');
  t.equal(report.findings.filter(({ severity }) => severity === 'note').length, 2, summary(report));
});

t.test('on files: nothing is changed, and a running node is told', async (t) => {
  const path = t.testdir({});
  const folder = await FileFolder.open(path);
  const spec = {
    name: 'g',
    regionBytes: REGION,
    volumes: [{ name: 'v', sizeBytes: 16 * REGION }],
    logBytes: 256 * KIB,
  };
  const group = await Group.create(folder, spec, systemClock);
  await group.createSnapshot('s');
  await group.volumes.get('v')?.write(Buffer.alloc(REGION, 1), 0, REGION, REGION);
  await t.rejects(checkGroup(folder, systemClock), { code: 'in-use' });
  await group.settled();
  await group.close();
  const state = async () => {
    const names = await folder.list();
    return names.map((name) => {
      const { mtimeMs, size, blocks } = statSync(join(path, name));
      const digest = createHash('sha256')
        .update(readFileSync(join(path, name)))
        .digest('hex');
      return [name, mtimeMs, size, blocks, digest];
    });
  };
  const before = await state();
  const report = await checkGroup(folder, systemClock);
  t.match(report, { severity: 'ok', opens: true, log: { batches: 0, replayBytes: 0 } }, summary(report));
  t.same(await state(), before);
  const again = await Group.open(folder, systemClock);
  t.same(again.warnings, []);
  await again.close();
});
