/**
 * `scripts/bench --snapshots`: what snapshots and the log cost writers. All subjects get their turns in one run, alternating, as in the
 * throughput benchmark; the ratios are between subjects of the same run.
 */
import { join } from 'node:path';
import { allowedWrites, copyRate } from './bench-copies.ts';
import { type FioLoad, type Measurement, measure } from './bench-fio.ts';
import { aligned, median } from './bench-report.ts';
import { NodeSubject, OverlaySubject, type Subject, writeAll } from './bench-subjects.ts';
import { mustRun } from './command.ts';

const GIBIBYTE_BYTES = 2 ** 30;
const REGION_BYTES = 64 * 1024;
const SECTOR_BYTES = 512;
const MANY_SNAPSHOTS = 20;
/** So large that the whole run stays in the first round of the ring. */
const FIRST_ROUND_LOG_BYTES = 8 * GIBIBYTE_BYTES;
/** Written between two of the many snapshots. */
const WRITES_BETWEEN = 500;
const COPY_SECONDS = 5;

export const PARTS = ['writes', 'flushes', 'fresh'] as const;
export type Part = (typeof PARTS)[number];

export interface SnapshotBenchSettings {
  readonly parts: readonly Part[];
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  /** Of a fresh snapshot: the volume, how long it is written, and how often. */
  readonly freshSizeBytes: number;
  readonly freshSeconds: number;
  readonly freshRounds: number;
  readonly folder: string;
}

const WRITES: FioLoad = { pattern: 'randwrite', blockBytes: 4096, depth: 32 };
const FLUSHES: FioLoad = { pattern: 'randwrite', blockBytes: 4096, depth: 1, flushEach: true };

type Turn = Measurement & { readonly after: Readonly<Record<string, number>> };

export interface SubjectResult {
  readonly part: Part;
  readonly subject: string;
  readonly medianIops: number;
  readonly lowIops: number;
  readonly highIops: number;
  readonly medianLatencyUs: number;
  readonly medianLatencyP99Us: number;
  readonly turns: readonly Turn[];
}

/** A ratio of two medians of one run, and the least that we aim for. */
export interface Ratio {
  readonly what: string;
  readonly ratio: number;
  readonly aim?: number;
}

export interface FreshRound {
  readonly copiesPerSecond: number;
  readonly writesPerSecond: number;
  readonly allowedIops: number;
  readonly iops: number;
  readonly overlayIops: number;
  readonly latencyP99Us: number;
  readonly after: Readonly<Record<string, number>>;
}

export interface SnapshotBenchResult {
  readonly results: readonly SubjectResult[];
  readonly fresh: readonly FreshRound[];
  readonly ratios: readonly Ratio[];
}

export async function benchSnapshots(settings: SnapshotBenchSettings): Promise<SnapshotBenchResult> {
  const results: SubjectResult[] = [];
  if (settings.parts.includes('writes')) {
    results.push(...(await runPart('writes', WRITES, settings, [plain, one, many, overlay, freshOverlay])));
  }
  if (settings.parts.includes('flushes')) {
    results.push(...(await runPart('flushes', FLUSHES, settings, [plain, one, firstRound, overlay])));
  }
  const fresh = settings.parts.includes('fresh') ? await runFresh(settings) : [];
  return { results, fresh, ratios: [...ratiosOf(results), ...freshRatios(fresh)] };
}

type Setup = (settings: SnapshotBenchSettings) => Promise<Subject>;

/** Direct mode. */
const plain: Setup = ({ folder, sizeBytes }) => NodeSubject.start({ name: 'plain', folder, sizeBytes });

/** With a log of the usual size, which filling the volume has brought to its second round. */
const one: Setup = ({ folder, sizeBytes }) => preserved('1-snapshot', folder, sizeBytes, 1);

const many: Setup = ({ folder, sizeBytes }) =>
  preserved(`${MANY_SNAPSHOTS}-snapshots`, folder, sizeBytes, MANY_SNAPSHOTS);

const firstRound: Setup = ({ folder, sizeBytes }) =>
  preserved('1-snapshot-first-round', folder, sizeBytes, 1, FIRST_ROUND_LOG_BYTES);

const overlay: Setup = ({ folder, sizeBytes }) =>
  OverlaySubject.start('qcow2-allocated', folder, sizeBytes, false);

const freshOverlay: Setup = ({ folder, sizeBytes }) =>
  OverlaySubject.start('qcow2-fresh', folder, sizeBytes, true);

/** A volume with snapshots, of which the newest has preserved every region. */
export async function preserved(
  name: string,
  folder: string,
  sizeBytes: number,
  snapshots: number,
  logBytes?: number,
): Promise<NodeSubject> {
  const options = { name, folder, sizeBytes };
  const subject = await NodeSubject.start(logBytes === undefined ? options : { ...options, logBytes });
  try {
    for (let number = 1; number <= snapshots; number++) {
      await subject.createSnapshot(`s${number}`);
      if (snapshots > 1) await subject.scatter(WRITES_BETWEEN, number);
    }
    await writeAll(subject.uri(), sizeBytes);
    // What the ring's second round needs: more than the log holds, headers and all.
    await writeAll(subject.uri(), sizeBytes / 4);
    await subject.untilSettled();
    const { snapshots: views } = await subject.status();
    const regions = views.at(-1)?.volumes[0]?.preservedRegions;
    if (regions !== Math.ceil(sizeBytes / REGION_BYTES))
      throw new Error(`${name}: ${regions} regions are preserved, and not all`);
    return subject;
  } catch (error) {
    await subject.stop();
    throw error;
  }
}

/** All rounds of one load on all subjects of a part. */
async function runPart(
  part: Part,
  load: FioLoad,
  settings: SnapshotBenchSettings,
  setups: readonly Setup[],
): Promise<SubjectResult[]> {
  const subjects: Subject[] = [];
  const partFolder = join(settings.folder, part);
  await mustRun('mkdir', [partFolder]);
  try {
    for (const setup of setups) subjects.push(await setup({ ...settings, folder: partFolder }));
    const turns = new Map<string, Turn[]>(subjects.map(({ name }) => [name, []]));
    for (let round = 0; round < settings.rounds; round++) {
      for (let turn = 0; turn < subjects.length; turn++) {
        const subject = subjects[(round + turn) % subjects.length];
        if (subject === undefined) continue;
        turns.get(subject.name)?.push(await takeTurn(part, load, subject, settings, round));
      }
    }
    return subjects.map(({ name }) => summary(part, name, turns.get(name) ?? []));
  } finally {
    for (const subject of subjects) await subject.stop();
    await mustRun('rm', ['-rf', partFolder]);
  }
}

async function takeTurn(
  part: Part,
  load: FioLoad,
  subject: Subject,
  { sizeBytes, seconds, folder }: SnapshotBenchSettings,
  round: number,
): Promise<Turn> {
  await subject.prepare();
  const measured = await measure(load, subject.uri(), sizeBytes, seconds, round + 1, folder);
  const after = await subject.settle();
  // What this one left to be written back must not slow the next one down.
  await mustRun('sync', ['--file-system', folder]);
  process.stderr.write(
    `${part} round ${round + 1} ${subject.name}: ${Math.round(measured.iops)} IOPS ${JSON.stringify(after)}\n`,
  );
  return { ...measured, after };
}

function summary(part: Part, subject: string, turns: readonly Turn[]): SubjectResult {
  const iops = turns.map((turn) => turn.iops);
  return {
    part,
    subject,
    medianIops: median(iops),
    lowIops: Math.min(...iops),
    highIops: Math.max(...iops),
    medianLatencyUs: median(turns.map((turn) => turn.latencyUs)),
    medianLatencyP99Us: median(turns.map((turn) => turn.latencyP99Us)),
    turns,
  };
}

/** A new snapshot over a large volume each round, between two looks at what the disk can do. */
async function runFresh(settings: SnapshotBenchSettings): Promise<FreshRound[]> {
  const { freshSizeBytes: sizeBytes, freshSeconds: seconds } = settings;
  const folder = join(settings.folder, 'fresh');
  await mustRun('mkdir', [folder]);
  const source = join(folder, 'node', 'disk.img');
  const subject = await NodeSubject.start({ name: 'node', folder, sizeBytes });
  const rounds: FreshRound[] = [];
  let peer: OverlaySubject | undefined;
  try {
    peer = await OverlaySubject.start('overlay', folder, sizeBytes, true);
    for (let round = 0; round < settings.freshRounds; round++) {
      const copies = async (): Promise<number> => {
        const rate = copyRate(source, join(folder, 'copies'), sizeBytes, COPY_SECONDS, round + 1);
        await mustRun('sync', ['--file-system', folder]);
        return rate;
      };
      const turn = (one: Subject): Promise<Turn> =>
        takeTurn(
          'fresh',
          { ...WRITES, rampSeconds: 0 },
          one,
          { ...settings, sizeBytes, seconds, folder },
          round,
        );
      await subject.prepare();
      const before = await copies();
      await subject.deleteAllSnapshots();
      await subject.createSnapshot('fresh');
      const counted = (await subject.status()).counters?.regionsPreserved ?? 0;
      const { iops, latencyP99Us, after } = await turn(subject);
      // What writes do that find their region preserved: measured on the same volume, now that its whole content is.
      await writeAll(subject.uri(), sizeBytes);
      await subject.settle();
      const writesPerSecond = (
        await takeTurn('fresh', WRITES, subject, { ...settings, sizeBytes, folder }, round)
      ).iops;
      const copiesPerSecond = (before + (await copies())) / 2;
      const overlayTurn = await turn(peer);
      rounds.push({
        copiesPerSecond,
        writesPerSecond,
        allowedIops:
          allowedWrites(sizeBytes / REGION_BYTES, copiesPerSecond, writesPerSecond, seconds) / seconds,
        iops,
        overlayIops: overlayTurn.iops,
        latencyP99Us,
        after: {
          ...after,
          regionsPreservedAtEnd: (after['regionsPreservedAtEnd'] ?? 0) - counted,
          regionsPreserved: (after['regionsPreserved'] ?? 0) - counted,
        },
      });
    }
    return rounds;
  } finally {
    await peer?.stop();
    await subject.stop();
    await mustRun('rm', ['-rf', folder]);
  }
}

function ratiosOf(results: readonly SubjectResult[]): Ratio[] {
  const ratios: Ratio[] = [];
  const add = (part: Part, subject: string, to: string, aim?: number): void => {
    const find = (name: string): SubjectResult | undefined =>
      results.find((result) => result.part === part && result.subject === name);
    const [ours, theirs] = [find(subject), find(to)];
    if (ours === undefined || theirs === undefined) return;
    const ratio = ours.medianIops / theirs.medianIops;
    ratios.push({ what: `${part}: ${subject} to ${to}`, ratio, ...(aim === undefined ? {} : { aim }) });
  };
  add('writes', '1-snapshot', 'plain', 0.4);
  add('writes', `${MANY_SNAPSHOTS}-snapshots`, '1-snapshot', 0.9);
  add('writes', '1-snapshot', 'qcow2-allocated');
  add('writes', '1-snapshot', 'qcow2-fresh');
  add('flushes', '1-snapshot', 'plain', 1);
  add('flushes', '1-snapshot-first-round', 'plain', 1);
  add('flushes', '1-snapshot', 'qcow2-allocated');
  return ratios;
}

function freshRatios(rounds: readonly FreshRound[]): Ratio[] {
  if (rounds.length === 0) return [];
  const of = (ratio: (round: FreshRound) => number): number => median(rounds.map(ratio));
  return [
    { what: 'fresh: to what the disk allows', ratio: of((one) => one.iops / one.allowedIops), aim: 0.5 },
    { what: 'fresh: to a fresh qcow2 overlay', ratio: of((one) => one.iops / one.overlayIops) },
  ];
}

export function snapshotTable({ results, fresh, ratios }: SnapshotBenchResult): string {
  const whole = (value: number): string => String(Math.round(value));
  const sections = [
    aligned([
      ['part', 'subject', 'IOPS', 'lowest', 'highest', 'p99 us', 'ring round at the end'],
      ...results.map((result) => [
        result.part,
        result.subject,
        whole(result.medianIops),
        whole(result.lowIops),
        whole(result.highIops),
        whole(result.medianLatencyP99Us),
        ringRound(result.turns.at(-1)?.after),
      ]),
    ]),
  ];
  if (fresh.length > 0) {
    sections.push(
      aligned([
        [
          'fresh',
          'IOPS',
          'disk allows',
          'copies/s of the disk',
          'preserved at the end',
          'settled after ms',
          'qcow2 overlay',
        ],
        ...fresh.map((round, index) => [
          String(index + 1),
          whole(round.iops),
          whole(round.allowedIops),
          whole(round.copiesPerSecond),
          String(round.after['regionsPreservedAtEnd']),
          String(round.after['settleMs']),
          whole(round.overlayIops),
        ]),
      ]),
    );
  }
  sections.push(
    aligned([
      ['ratio of medians', 'is', 'aim'],
      ...ratios.map(({ what, ratio, aim }) => [
        what,
        ratio.toFixed(2),
        aim === undefined ? '' : `${aim}${ratio < aim ? ', missed' : ''}`,
      ]),
    ]),
  );
  return sections.join('\n\n');
}

function ringRound(after: Readonly<Record<string, number>> | undefined): string {
  const { endLsn, logSize } = { endLsn: after?.['endLsn'], logSize: after?.['logSize'] };
  if (endLsn === undefined || logSize === undefined || endLsn === 0) return '';
  return ((endLsn * SECTOR_BYTES) / logSize).toFixed(1);
}
