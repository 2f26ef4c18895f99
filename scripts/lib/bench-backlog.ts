/** How fast a link ships what has piled up, beside a plain copy of as much between two volumes of ours over NBD. */
import { join } from 'node:path';
import { LinkedSubject } from './bench-link-subjects.ts';
import { cpuSeconds } from './bench-processes.ts';
import { NodeSubject, writeAll } from './bench-subjects.ts';
import { mustRun } from './command.ts';

const GIBIBYTE_BYTES = 2 ** 30;
/** The log has room for the backlog, and keeps it for a link that is paused: half of it at most, and more than the backlog with its headers. */
const LOG_SHARE = 3;

export interface BacklogSettings {
  readonly rounds: number;
  readonly backlogBytes: number;
  readonly folder: string;
}

/** Bytes a second. */
export interface BacklogRound {
  /** Until the secondary had all of it durably; and until it was in its volumes. */
  readonly shippedPerSecond: number;
  readonly appliedPerSecond: number;
  /** By nbdcopy, which syncs nothing. */
  readonly copiedPerSecond: number;
  /** CPU seconds of each node for a GiB, until all was in the secondary's volumes. */
  readonly cpuSecondsPerGib: Readonly<Record<'primary' | 'secondary', number>>;
}

export async function measureBacklog(settings: BacklogSettings): Promise<BacklogRound[]> {
  const folder = join(settings.folder, 'backlog');
  const { backlogBytes: sizeBytes } = settings;
  await mustRun('mkdir', [folder]);
  const subjects: { stop(): Promise<void> }[] = [];
  try {
    const logBytes = LOG_SHARE * sizeBytes;
    const linked = await LinkedSubject.start({ name: 'linked', folder, sizeBytes, logBytes });
    subjects.push(linked);
    const source = await NodeSubject.start({ name: 'source', folder, sizeBytes });
    subjects.push(source);
    const target = await NodeSubject.start({ name: 'target', folder, sizeBytes });
    subjects.push(target);
    const rounds: BacklogRound[] = [];
    for (let round = 0; round < settings.rounds; round++) {
      const ship = () => shipBacklog(linked, sizeBytes, folder);
      const copy = () => copyVolume(source, target, sizeBytes, folder);
      // In turns, each first every other time.
      const early = round % 2 === 0 ? undefined : await copy();
      const shipped = await ship();
      const one = { ...shipped, copiedPerSecond: early ?? (await copy()) };
      process.stderr.write(`backlog round ${round + 1}: ${JSON.stringify(one)}\n`);
      rounds.push(one);
    }
    return rounds;
  } finally {
    for (const subject of subjects) await subject.stop();
    await mustRun('rm', ['-rf', folder]);
  }
}

/** The link is paused, the whole volume is written, and then it is resumed. */
async function shipBacklog(
  linked: LinkedSubject,
  sizeBytes: number,
  folder: string,
): Promise<Omit<BacklogRound, 'copiedPerSecond'>> {
  await linked.pause();
  await writeAll(linked.uri(), sizeBytes);
  await linked.primary.untilSettled();
  await mustRun('sync', ['--file-system', folder]);
  const { bytesShipped, dcmRegions } = await linked.link();
  if (dcmRegions > 0) throw new Error('the log is not kept for the backlog');
  const { primary, secondary } = linked;
  const before = [await cpuSeconds(primary.node.pid), await cpuSeconds(secondary.node.pid)] as const;
  const startMs = performance.now();
  await linked.resume();
  await linked.untilShipped();
  const shippedMs = performance.now() - startMs;
  await linked.untilApplied();
  const appliedMs = performance.now() - startMs;
  const gib = sizeBytes / GIBIBYTE_BYTES;
  const cpuSecondsPerGib = {
    primary: ((await cpuSeconds(primary.node.pid)) - before[0]) / gib,
    secondary: ((await cpuSeconds(secondary.node.pid)) - before[1]) / gib,
  };
  const bytes = (await linked.link()).bytesShipped - bytesShipped;
  if (bytes < sizeBytes) throw new Error(`${bytes} bytes were shipped, and not the backlog`);
  await mustRun('sync', ['--file-system', folder]);
  return {
    shippedPerSecond: sizeBytes / (shippedMs / 1000),
    appliedPerSecond: sizeBytes / (appliedMs / 1000),
    cpuSecondsPerGib,
  };
}

async function copyVolume(
  source: NodeSubject,
  target: NodeSubject,
  sizeBytes: number,
  folder: string,
): Promise<number> {
  await source.prepare();
  await target.prepare();
  const startMs = performance.now();
  await mustRun('nbdcopy', [source.uri(), target.uri()]);
  const tookMs = performance.now() - startMs;
  await mustRun('sync', ['--file-system', folder]);
  return sizeBytes / (tookMs / 1000);
}
