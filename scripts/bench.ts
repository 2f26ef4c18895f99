/**
 * Usage: scripts/bench [--rounds N] [--seconds S] [--cells A,B] [--peers A,B] [--size-mib N] [--folder DIR] [--no-save]
 *        scripts/bench --snapshots [--parts A,B] [--rounds N] [--seconds S] [--size-mib N] [--fresh-rounds N] [--fresh-seconds S]
 *                      [--fresh-size-mib N] [--folder DIR] [--no-save]
 *        scripts/bench --instants [--rounds N] [--changes N] [--folder DIR] [--no-save]
 *        scripts/bench --links [--parts writes,backlog] [--rounds N] [--seconds S] [--size-mib N] [--log-mib N] [--backlog-mib N]
 *                      [--folder DIR] [--no-save]
 *        scripts/bench --memory [--no-save]
 *
 * Each round gives every server the same load in turn, and starts with another server than the round before, so that
 * what drifts on the machine drifts for all. The table has medians over the rounds; the rounds themselves are kept in
 * docs/benchmarks/, with the load average of the machine before it began: figures from a machine that others use are worth little.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CELLS, type Cell, PEER_NAMES, type PeerName } from './lib/bench-cells.ts';
import { type Measurement, measure } from './lib/bench-fio.ts';
import { benchInstants, instantsTable } from './lib/bench-instants.ts';
import { benchLinks, LINK_PARTS, type LinkPart, linkTable } from './lib/bench-links.ts';
import { measureMemory, memoryTable } from './lib/bench-memory.ts';
import { type Peer, startPeer, versions, warm } from './lib/bench-peers.ts';
import { describeCommit, describeMachine, type Result, summarise, table } from './lib/bench-report.ts';
import { benchSnapshots, PARTS, type Part, snapshotTable } from './lib/bench-snapshots.ts';
import { mustRun } from './lib/command.ts';
import { projectFolder } from './lib/served-node.ts';

interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  readonly cells: readonly Cell[];
  readonly peers: readonly PeerName[];
  readonly folder: string;
  readonly kind: Kind;
  readonly parts: readonly Part[];
  readonly freshRounds: number;
  readonly freshSeconds: number;
  readonly freshSizeBytes: number;
  readonly changes: number;
  readonly linkParts: readonly LinkPart[];
  readonly logBytes: number;
  readonly backlogBytes: number;
  readonly save: boolean;
}

type Kind = 'throughput' | 'snapshots' | 'instants' | 'links' | 'memory';

class UsageError extends Error {}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '3' },
      cells: { type: 'string' },
      peers: { type: 'string' },
      'size-mib': { type: 'string', default: '1024' },
      folder: { type: 'string', default: tmpdir() },
      snapshots: { type: 'boolean', default: false },
      parts: { type: 'string' },
      'fresh-rounds': { type: 'string', default: '3' },
      'fresh-seconds': { type: 'string', default: '20' },
      'fresh-size-mib': { type: 'string', default: '4096' },
      instants: { type: 'boolean', default: false },
      changes: { type: 'string', default: '50000' },
      links: { type: 'boolean', default: false },
      'log-mib': { type: 'string', default: '256' },
      'backlog-mib': { type: 'string', default: '512' },
      memory: { type: 'boolean', default: false },
      'no-save': { type: 'boolean', default: false },
    },
  });
  const kind = kindOf(values);
  return {
    rounds: positive('--rounds', values.rounds),
    seconds: positive('--seconds', values.seconds),
    sizeBytes: positive('--size-mib', values['size-mib']) * 1024 * 1024,
    cells: pick('--cells', values.cells, CELLS, (cell) => cell.name),
    peers: pick('--peers', values.peers, PEER_NAMES, (name) => name),
    folder: values.folder,
    kind,
    parts: pick('--parts', kind === 'links' ? undefined : values.parts, PARTS, (part) => part),
    linkParts: pick('--parts', kind === 'links' ? values.parts : undefined, LINK_PARTS, (part) => part),
    logBytes: positive('--log-mib', values['log-mib']) * 1024 * 1024,
    backlogBytes: positive('--backlog-mib', values['backlog-mib']) * 1024 * 1024,
    freshRounds: positive('--fresh-rounds', values['fresh-rounds']),
    freshSeconds: positive('--fresh-seconds', values['fresh-seconds']),
    freshSizeBytes: positive('--fresh-size-mib', values['fresh-size-mib']) * 1024 * 1024,
    changes: positive('--changes', values.changes),
    save: !values['no-save'],
  };
}

function kindOf(values: Readonly<Record<Exclude<Kind, 'throughput'>, boolean>>): Kind {
  const asked = (['snapshots', 'instants', 'links', 'memory'] as const).filter((kind) => values[kind]);
  if (asked.length > 1) throw new UsageError(`one of --${asked.join(' and --')}`);
  return asked[0] ?? 'throughput';
}

function positive(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new UsageError(`${option}: ${text} is not a whole number above 0`);
  return value;
}

function pick<T>(
  option: string,
  text: string | undefined,
  all: readonly T[],
  nameOf: (item: T) => string,
): T[] {
  if (text === undefined) return [...all];
  return text.split(',').map((name) => {
    const item = all.find((candidate) => nameOf(candidate) === name);
    if (item === undefined)
      throw new UsageError(`${option}: no ${name}; there are ${all.map(nameOf).join(', ')}`);
    return item;
  });
}

/** All rounds of one load on all servers. */
async function runCell(
  cell: Cell,
  peers: readonly Peer[],
  settings: Settings,
  folder: string,
): Promise<Result[]> {
  const measured = new Map<PeerName, Measurement[]>(peers.map((peer) => [peer.name, []]));
  for (let round = 0; round < settings.rounds; round++) {
    for (let turn = 0; turn < peers.length; turn++) {
      const peer = peers[(round + turn) % peers.length];
      if (peer === undefined) continue;
      await warm(peer.file);
      const one = await measure(cell, peer.uri, settings.sizeBytes, settings.seconds, round + 1, folder);
      measured.get(peer.name)?.push(one);
      // What this server left to be written back must not slow the next one down.
      if (cell.pattern.endsWith('write')) await mustRun('sync', ['--file-system', folder]);
      process.stderr.write(`${cell.name} round ${round + 1} ${peer.name}: ${Math.round(one.iops)} IOPS\n`);
    }
  }
  return peers.map((peer) => summarise(cell, peer.name, measured.get(peer.name) ?? []));
}

async function runThroughput(settings: Settings, folder: string): Promise<object> {
  const peers: Peer[] = [];
  const results: Result[] = [];
  try {
    for (const name of settings.peers) peers.push(await startPeer(name, folder, settings.sizeBytes));
    for (const cell of settings.cells) results.push(...(await runCell(cell, peers, settings, folder)));
  } finally {
    for (const peer of peers) await peer.stop();
  }
  console.log(table(settings.cells, settings.peers, results));
  const { rounds, seconds, sizeBytes } = settings;
  return {
    kind: 'throughput',
    rounds,
    seconds,
    sizeBytes,
    versions: await versions(settings.peers),
    results,
  };
}

async function runMemory(folder: string): Promise<object> {
  const results = await measureMemory(folder);
  console.log(memoryTable(results));
  return { kind: 'memory', versions: await versions([]), results };
}

async function runSnapshots(settings: Settings, folder: string): Promise<object> {
  const result = await benchSnapshots({ ...settings, folder });
  console.log(snapshotTable(result));
  const { parts, rounds, seconds, sizeBytes, freshRounds, freshSeconds, freshSizeBytes } = settings;
  const asked = { parts, rounds, seconds, sizeBytes, freshRounds, freshSeconds, freshSizeBytes };
  return { kind: 'snapshots', ...asked, versions: await versions(['qemu-nbd']), ...result };
}

async function runInstants({ rounds, changes }: Settings, folder: string): Promise<object> {
  const result = await benchInstants({ repeats: rounds, changes, folder });
  console.log(instantsTable(result));
  return { kind: 'instants', rounds, changes, versions: await versions([]), ...result };
}

async function runLinks(settings: Settings, folder: string): Promise<object> {
  const { linkParts: parts, rounds, seconds, sizeBytes, logBytes, backlogBytes } = settings;
  const asked = { parts, rounds, seconds, sizeBytes, logBytes, backlogBytes };
  const result = await benchLinks({ ...asked, folder });
  console.log(linkTable(result));
  return { kind: 'links', ...asked, versions: await versions(['qemu-nbd']), ...result };
}

function runKind(settings: Settings, folder: string): Promise<object> {
  switch (settings.kind) {
    case 'throughput':
      return runThroughput(settings, folder);
    case 'snapshots':
      return runSnapshots(settings, folder);
    case 'instants':
      return runInstants(settings, folder);
    case 'links':
      return runLinks(settings, folder);
    case 'memory':
      return runMemory(folder);
  }
}

async function save(record: object, kind: string, folder: string): Promise<void> {
  const project = projectFolder();
  const date = new Date().toISOString();
  const commit = await describeCommit(project);
  const kept = { date, commit, machine: await describeMachine(folder), ...record };
  const path = join(
    'docs/benchmarks',
    `${date.slice(0, 16).replace(':', '')}-${kind}-${commit.replace('+', '-changed')}.json`,
  );
  await mkdir(join(project, 'docs/benchmarks'), { recursive: true });
  await writeFile(join(project, path), `${JSON.stringify(kept, undefined, 2)}\n`);
  console.log(`kept in ${path}`);
}

async function main(): Promise<void> {
  const settings = readSettings();
  const folder = await mkdtemp(join(settings.folder, 'tidemark-bench-'));
  const removeFolder = (): Promise<void> => rm(folder, { recursive: true, force: true });
  process.once('SIGINT', () => void removeFolder().finally(() => process.exit(130)));
  const loadBefore = loadavg()[0];
  try {
    const record = { loadBefore, ...(await runKind(settings, folder)) };
    if (settings.save) await save(record, settings.kind, folder);
  } finally {
    await removeFolder();
  }
}

try {
  await main();
} catch (error) {
  const usage =
    error instanceof UsageError ||
    (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'));
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = usage ? 2 : 1;
}
