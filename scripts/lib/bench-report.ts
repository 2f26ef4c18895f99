import { readFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import type { Cell, PeerName } from './bench-cells.ts';
import type { Measurement } from './bench-fio.ts';
import { mustRun, run } from './command.ts';

const GIBIBYTE_BYTES = 2 ** 30;

/** What one server did under one load, over all rounds. */
export interface Result {
  readonly cell: string;
  readonly peer: PeerName;
  readonly medianIops: number;
  /** Lowest and highest round. */
  readonly lowIops: number;
  readonly highIops: number;
  readonly medianLatencyUs: number;
  readonly medianLatencyP99Us: number;
  readonly rounds: readonly Measurement[];
}

/** Median of a non-empty list; of two middle values, their mean. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.ceil(sorted.length / 2) - 1];
  if (upper === undefined || lower === undefined) throw new Error('The median of nothing.');
  return (lower + upper) / 2;
}

export function summarise(cell: Cell, peer: PeerName, rounds: readonly Measurement[]): Result {
  const iops = rounds.map((round) => round.iops);
  return {
    cell: cell.name,
    peer,
    medianIops: median(iops),
    lowIops: Math.min(...iops),
    highIops: Math.max(...iops),
    medianLatencyUs: median(rounds.map((round) => round.latencyUs)),
    medianLatencyP99Us: median(rounds.map((round) => round.latencyP99Us)),
    rounds,
  };
}

/**
 * The results as a Markdown table: a line a load, IOPS of each server with the spread of its rounds, then Tidemark's
 * ratio to each peer beside what we aim for.
 */
export function table(
  cells: readonly Cell[],
  peers: readonly PeerName[],
  results: readonly Result[],
): string {
  const others = peers.includes('tidemark') ? peers.filter((peer) => peer !== 'tidemark') : [];
  const header = [
    'load',
    ...peers.map((peer) => `${peer} IOPS`),
    ...others.map((peer) => `to ${peer} (aim)`),
  ];
  const lines = cells.map((cell) => {
    const of = (peer: PeerName): Result | undefined =>
      results.find((result) => result.cell === cell.name && result.peer === peer);
    return [
      cell.name,
      ...peers.map((peer) => iopsText(of(peer))),
      ...others.map((peer) => ratioText(of('tidemark'), of(peer), cell.targets[peer])),
    ];
  });
  return aligned([header, ...lines]);
}

function iopsText(result: Result | undefined): string {
  if (result === undefined) return '';
  const low = Math.round((1 - result.lowIops / result.medianIops) * 100);
  const high = Math.round((result.highIops / result.medianIops - 1) * 100);
  return `${thousands(result.medianIops)} -${low}/+${high}%`;
}

function thousands(value: number): string {
  return value >= 100_000 ? `${Math.round(value / 1000)}k` : `${(value / 1000).toFixed(1)}k`;
}

function ratioText(ours: Result | undefined, theirs: Result | undefined, aim: number | undefined): string {
  if (ours === undefined || theirs === undefined) return '';
  const ratio = ours.medianIops / theirs.medianIops;
  if (aim === undefined) return ratio.toFixed(2);
  return `${ratio.toFixed(2)} (${aim.toFixed(1)}${ratio < aim ? ', missed' : ''})`;
}

/** A Markdown table whose columns are padded to line up as plain text. The first row is the header. */
export function aligned(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map(
    (row) => `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |`,
  );
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [lines[0], rule, ...lines.slice(1)].join('\n');
}

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly kernel: string;
  readonly filesystem: string;
}

/** What the figures depend on, and nothing that identifies the machine. */
export async function describeMachine(folder: string): Promise<Machine> {
  const processors = cpus();
  const filesystem = await mustRun('stat', ['--file-system', '--format=%T', folder]);
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryGib: Math.round(totalmem() / GIBIBYTE_BYTES),
    kernel: release(),
    filesystem: filesystem.trim(),
  };
}

/** The commit that was measured, with `+` behind it when the tree differs from it; the version outside a repository. */
export async function describeCommit(projectFolder: string): Promise<string> {
  const commit = await run('git', ['-C', projectFolder, 'rev-parse', '--short=10', 'HEAD']);
  if (commit.status !== 0) {
    const text = await readFile(`${projectFolder}/package.json`, 'utf8');
    return `v${(JSON.parse(text) as { version: string }).version}`;
  }
  const changes = await run('git', ['-C', projectFolder, 'status', '--porcelain', '--untracked-files=no']);
  return commit.stdout.trim() + (changes.stdout === '' ? '' : '+');
}
