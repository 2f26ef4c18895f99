/**
 * `scripts/bench --links`: what a link costs writers, and how fast it ships. Client, primary and secondary share the machine, as they do not in use: so the CPU time
 * of each is told too. All subjects get their turns in one run, alternating, as in the other benchmarks.
 */
import { join } from 'node:path';
import { type BacklogRound, measureBacklog } from './bench-backlog.ts';
import { type FioLoad, type Measurement, measure } from './bench-fio.ts';
import { LinkedSubject, LinkSampler, PeerSubject } from './bench-link-subjects.ts';
import { cpuSeconds } from './bench-processes.ts';
import { aligned, median } from './bench-report.ts';
import { preserved, type Ratio } from './bench-snapshots.ts';
import { NodeSubject, type Subject } from './bench-subjects.ts';
import { mustRun } from './command.ts';

const MEBIBYTE_BYTES = 2 ** 20;
const GIBIBYTE_BYTES = 2 ** 30;
const WRITES: FioLoad = { pattern: 'randwrite', blockBytes: 4096, depth: 32 };

export const LINK_PARTS = ['writes', 'backlog'] as const;
export type LinkPart = (typeof LINK_PARTS)[number];

export interface LinkBenchSettings {
  readonly parts: readonly LinkPart[];
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  /** Of the primary and of the secondary: what the lag is bounded by. */
  readonly logBytes: number;
  readonly backlogBytes: number;
  readonly folder: string;
}

export interface LinkTurn extends Measurement {
  /** CPU seconds of each process for a GiB that the client wrote, all that follows from it included. */
  readonly cpuSecondsPerGib: Readonly<Record<string, number>>;
  /** Of the log that the secondary had not, at most, and its age. */
  readonly mostLagBytes?: number;
  readonly mostLagSeconds?: number;
  /** Resident at most so far. */
  readonly peakMib: Readonly<Record<string, number>>;
  /** From the end of the load until all of it was in the volumes, on both nodes where there are two. */
  readonly settleMs: number;
}

export interface LinkSubjectResult {
  readonly subject: string;
  readonly medianIops: number;
  readonly lowIops: number;
  readonly highIops: number;
  readonly turns: readonly LinkTurn[];
}

export interface LinkBenchResult {
  readonly results: readonly LinkSubjectResult[];
  readonly backlog: readonly BacklogRound[];
  readonly ratios: readonly (Ratio & { readonly low: number; readonly high: number })[];
}

export async function benchLinks(settings: LinkBenchSettings): Promise<LinkBenchResult> {
  const results = settings.parts.includes('writes') ? await runWrites(settings) : [];
  const backlog = settings.parts.includes('backlog') ? await measureBacklog(settings) : [];
  return { results, backlog, ratios: [...writeRatios(results), ...backlogRatios(backlog)] };
}

type Setup = (settings: LinkBenchSettings) => Promise<Subject>;

const SETUPS: readonly Setup[] = [
  ({ folder, sizeBytes }) => NodeSubject.start({ name: 'plain', folder, sizeBytes }),
  ({ folder, sizeBytes, logBytes }) => preserved('1-snapshot', folder, sizeBytes, 1, logBytes),
  ({ folder, sizeBytes, logBytes }) =>
    LinkedSubject.start({ name: 'async-link', folder, sizeBytes, logBytes }),
  ({ folder, sizeBytes }) => PeerSubject.start('qemu-nbd', folder, sizeBytes),
];

async function runWrites(settings: LinkBenchSettings): Promise<LinkSubjectResult[]> {
  const folder = join(settings.folder, 'writes');
  await mustRun('mkdir', [folder]);
  const subjects: Subject[] = [];
  try {
    for (const setup of SETUPS) subjects.push(await setup({ ...settings, folder }));
    const turns = new Map<string, LinkTurn[]>(subjects.map(({ name }) => [name, []]));
    for (let round = 0; round < settings.rounds; round++) {
      for (let turn = 0; turn < subjects.length; turn++) {
        const subject = subjects[(round + turn) % subjects.length];
        if (subject === undefined) continue;
        turns.get(subject.name)?.push(await takeTurn(subject, { ...settings, folder }, round));
      }
    }
    return subjects.map(({ name }) => summary(name, turns.get(name) ?? []));
  } finally {
    for (const subject of subjects) await subject.stop();
    await mustRun('rm', ['-rf', folder]);
  }
}

async function takeTurn(
  subject: Subject,
  { sizeBytes, seconds, folder }: LinkBenchSettings,
  round: number,
): Promise<LinkTurn> {
  await subject.prepare();
  const processes = processesOf(subject);
  const before = await cpuOf(processes);
  const sampler = subject instanceof LinkedSubject ? new LinkSampler(subject) : undefined;
  const measured = await measure(WRITES, subject.uri(), sizeBytes, seconds, round + 1, folder);
  const { settleMs = 0 } = await subject.settle();
  const lag = await sampler?.stop();
  const after = await cpuOf(processes);
  await mustRun('sync', ['--file-system', folder]);
  // What was written while fio was not measuring yet is in the CPU time, too.
  const rampShare = (seconds + measured.rampSeconds) / seconds;
  const gib = (measured.iops * seconds * rampShare * WRITES.blockBytes) / GIBIBYTE_BYTES;
  const perGib = Object.entries(after).map(([name, used]) => [name, (used - (before[name] ?? 0)) / gib]);
  const turn: LinkTurn = {
    ...measured,
    cpuSecondsPerGib: {
      client: (measured.cpuShare * seconds * rampShare) / gib,
      ...Object.fromEntries(perGib),
    },
    ...lag,
    peakMib: await peaksOf(subject),
    settleMs,
  };
  process.stderr.write(`round ${round + 1} ${subject.name}: ${JSON.stringify(turn)}\n`);
  return turn;
}

/** Process ids of a subject's servers, by what they are. */
function processesOf(subject: Subject): Record<string, number> {
  if (subject instanceof LinkedSubject)
    return { primary: subject.primary.node.pid, secondary: subject.secondary.node.pid };
  if (subject instanceof NodeSubject) return { server: subject.node.pid };
  return subject instanceof PeerSubject ? { server: subject.pid } : {};
}

async function cpuOf(processes: Readonly<Record<string, number>>): Promise<Record<string, number>> {
  const used: Record<string, number> = {};
  for (const [name, pid] of Object.entries(processes)) used[name] = await cpuSeconds(pid);
  return used;
}

async function peaksOf(subject: Subject): Promise<Record<string, number>> {
  const nodes =
    subject instanceof LinkedSubject
      ? { primary: subject.primary.node, secondary: subject.secondary.node }
      : subject instanceof NodeSubject
        ? { server: subject.node }
        : {};
  const peaks: Record<string, number> = {};
  for (const [name, node] of Object.entries(nodes))
    peaks[name] = Math.round((await node.peakResidentBytes()) / MEBIBYTE_BYTES);
  return peaks;
}

function summary(subject: string, turns: readonly LinkTurn[]): LinkSubjectResult {
  const iops = turns.map((turn) => turn.iops);
  return {
    subject,
    medianIops: median(iops),
    lowIops: Math.min(...iops),
    highIops: Math.max(...iops),
    turns,
  };
}

/** A ratio of medians, with the lowest and the highest of the rounds by themselves. */
function ratioOf(
  what: string,
  ours: readonly number[],
  theirs: readonly number[],
  aim?: number,
): LinkBenchResult['ratios'][number] {
  const each = ours.map((value, round) => value / (theirs[round] ?? Number.NaN));
  const ratio = median(ours) / median(theirs);
  const spread = { low: Math.min(...each), high: Math.max(...each) };
  return { what, ratio, ...spread, ...(aim === undefined ? {} : { aim }) };
}

function writeRatios(results: readonly LinkSubjectResult[]): LinkBenchResult['ratios'] {
  const iops = (name: string): number[] =>
    results.find(({ subject }) => subject === name)?.turns.map((turn) => turn.iops) ?? [];
  const linked = iops('async-link');
  if (linked.length === 0) return [];
  return [
    ratioOf('writes: async-link to plain', linked, iops('plain'), 0.3),
    ratioOf('writes: async-link to 1-snapshot', linked, iops('1-snapshot')),
    ratioOf('writes: async-link to qemu-nbd', linked, iops('qemu-nbd'), 1),
  ];
}

function backlogRatios(rounds: readonly BacklogRound[]): LinkBenchResult['ratios'] {
  if (rounds.length === 0) return [];
  const of = (rate: (round: BacklogRound) => number): number[] => rounds.map(rate);
  const copied = of((round) => round.copiedPerSecond);
  return [
    ratioOf(
      'backlog: shipped, durably, to nbdcopy',
      of((round) => round.shippedPerSecond),
      copied,
      0.5,
    ),
    ratioOf(
      'backlog: applied there, to nbdcopy',
      of((round) => round.appliedPerSecond),
      copied,
    ),
  ];
}

export function linkTable({ results, backlog, ratios }: LinkBenchResult): string {
  const mib = (bytes: number): string => (bytes / MEBIBYTE_BYTES).toFixed(0);
  const sections: string[] = [];
  if (results.length > 0) sections.push(writesTable(results, mib));
  if (backlog.length > 0)
    sections.push(
      aligned([
        [
          'backlog',
          'shipped MiB/s',
          'applied there MiB/s',
          'nbdcopy MiB/s',
          'CPU s/GiB primary',
          'secondary',
        ],
        ...backlog.map((round, index) => [
          String(index + 1),
          mib(round.shippedPerSecond),
          mib(round.appliedPerSecond),
          mib(round.copiedPerSecond),
          round.cpuSecondsPerGib.primary.toFixed(1),
          round.cpuSecondsPerGib.secondary.toFixed(1),
        ]),
      ]),
    );
  sections.push(
    aligned([
      ['ratio of medians', 'is', 'rounds from', 'to', 'aim'],
      ...ratios.map(({ what, ratio, low, high, aim }) => [
        what,
        ratio.toFixed(2),
        low.toFixed(2),
        high.toFixed(2),
        aim === undefined ? '' : `${aim}${ratio < aim ? ', missed' : ''}`,
      ]),
    ]),
  );
  return sections.join('\n\n');
}

function writesTable(results: readonly LinkSubjectResult[], mib: (bytes: number) => string): string {
  const of = (turns: readonly LinkTurn[], value: (turn: LinkTurn) => number | undefined): string => {
    const values = turns.map(value).filter((each) => each !== undefined);
    return values.length === 0 ? '' : median(values).toFixed(1);
  };
  return aligned([
    [
      '4k writes, 32 in flight',
      'IOPS',
      'lowest',
      'highest',
      'CPU s/GiB client',
      'server or primary',
      'secondary',
      'most lag MiB',
      's',
      'peak MiB',
    ],
    ...results.map(({ subject, medianIops, lowIops, highIops, turns }) => {
      const lags = turns.map((turn) => turn.mostLagBytes).filter((lag) => lag !== undefined);
      return [
        subject,
        ...[medianIops, lowIops, highIops].map((value) => String(Math.round(value))),
        of(turns, ({ cpuSecondsPerGib }) => cpuSecondsPerGib['client']),
        of(turns, ({ cpuSecondsPerGib }) => cpuSecondsPerGib['primary'] ?? cpuSecondsPerGib['server']),
        of(turns, ({ cpuSecondsPerGib }) => cpuSecondsPerGib['secondary']),
        lags.length === 0 ? '' : mib(Math.max(...lags)),
        lags.length === 0 ? '' : Math.max(...turns.map((turn) => turn.mostLagSeconds ?? 0)).toFixed(1),
        Object.values(turns.at(-1)?.peakMib ?? {}).join(' + '),
      ];
    }),
  ]);
}
