/**
 * `scripts/bench --instants`: how long `snapshot create` and `restore` take until they are answered, beyond a sync of what was dirty, by size,
 * number of snapshots and number of changed regions; and the memory of a node with all that.
 */
import { aligned, median } from './bench-report.ts';
import { NodeSubject } from './bench-subjects.ts';

const MEBIBYTE_BYTES = 2 ** 20;
const GIBIBYTE_BYTES = 2 ** 30;
const TEBIBYTE_BYTES = 2 ** 40;
/** Written just before each measurement, so that something is dirty. */
const DIRTY_WRITES = 4096;
const AIM_MS = 50;

export interface InstantsSettings {
  readonly repeats: number;
  /** Writes of 4 KiB all over the volume after the oldest snapshot. */
  readonly changes: number;
  readonly folder: string;
}

export interface Instant {
  readonly size: '1 GiB' | '1 TiB';
  readonly snapshots: number;
  readonly what: 'create' | 'restore';
  /** Regions that the restores had to copy. */
  readonly regions?: number;
  /** A flush of as much as was dirty. */
  readonly syncMs: readonly number[];
  readonly tookMs: readonly number[];
}

export interface InstantsResult {
  readonly instants: readonly Instant[];
  /** Resident memory of the node with 1 TiB at the end, and the most that it had. */
  readonly residentMib: number;
  readonly peakMib: number;
}

export async function benchInstants(settings: InstantsSettings): Promise<InstantsResult> {
  const small = await measureSize('1 GiB', GIBIBYTE_BYTES, settings);
  const large = await measureSize('1 TiB', TEBIBYTE_BYTES, settings);
  const { residentMib, peakMib } = large;
  return { instants: [...small.instants, ...large.instants], residentMib, peakMib };
}

async function measureSize(
  size: Instant['size'],
  sizeBytes: number,
  settings: InstantsSettings,
): Promise<InstantsResult> {
  const sparse = size === '1 TiB';
  const subject = await NodeSubject.start({
    name: sparse ? 'large' : 'small',
    folder: settings.folder,
    sizeBytes,
    sparse,
  });
  try {
    const instants: Instant[] = [];
    for (const snapshots of [1, 20]) {
      instants.push(await measureCreate(size, subject, snapshots, settings));
      instants.push(await measureRestore(size, subject, snapshots, settings));
      await subject.deleteAllSnapshots();
    }
    return {
      instants,
      residentMib: (await subject.node.residentBytes()) / MEBIBYTE_BYTES,
      peakMib: (await subject.node.peakResidentBytes()) / MEBIBYTE_BYTES,
    };
  } finally {
    await subject.stop();
  }
}

/** The snapshot that makes the number full, many times; the first one is also the way from direct mode to the log. */
async function measureCreate(
  size: Instant['size'],
  subject: NodeSubject,
  snapshots: number,
  { repeats, changes }: InstantsSettings,
): Promise<Instant> {
  for (let number = 1; number < snapshots; number++) {
    await subject.createSnapshot(`s${number}`);
    await subject.scatter(changes / snapshots, number);
  }
  const [syncMs, tookMs]: [number[], number[]] = [[], []];
  for (let repeat = 0; repeat < repeats; repeat++) {
    await subject.untilSettled();
    await subject.scatter(DIRTY_WRITES, 1000 + repeat);
    syncMs.push(await timed(() => subject.flush()));
    await subject.untilSettled();
    await subject.scatter(DIRTY_WRITES, 2000 + repeat);
    tookMs.push(await timed(() => subject.createSnapshot('measured')));
    await subject.deleteSnapshot('measured');
  }
  return tell({ size, snapshots, what: 'create', syncMs, tookMs });
}

/** From the oldest snapshot, so that all that was ever changed comes back. */
async function measureRestore(
  size: Instant['size'],
  subject: NodeSubject,
  snapshots: number,
  { repeats, changes }: InstantsSettings,
): Promise<Instant> {
  if (snapshots === 1) await subject.createSnapshot('s1');
  else await subject.createSnapshot('s20');
  const [syncMs, tookMs]: [number[], number[]] = [[], []];
  let regions = 0;
  for (let repeat = 0; repeat < repeats; repeat++) {
    await subject.scatter(changes, 3000 + repeat);
    await subject.untilSettled();
    await subject.scatter(DIRTY_WRITES, 4000 + repeat);
    syncMs.push(await timed(() => subject.flush()));
    await subject.untilSettled();
    await subject.scatter(DIRTY_WRITES, 5000 + repeat);
    tookMs.push(
      await timed(async () => {
        regions = await subject.restore('s1');
      }),
    );
    await subject.untilSettled();
  }
  return tell({ size, snapshots, what: 'restore', regions, syncMs, tookMs });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

function tell(instant: Instant): Instant {
  process.stderr.write(`${row(instant).join('  ')}\n`);
  return instant;
}

function row({ size, snapshots, what, regions, syncMs, tookMs }: Instant): string[] {
  const beyond = median(tookMs) - median(syncMs);
  const figures = [median(tookMs), Math.max(...tookMs), median(syncMs), Math.max(...syncMs), beyond];
  const aim = `${AIM_MS}${beyond > AIM_MS ? ', missed' : ''}`;
  return [
    size,
    String(snapshots),
    what,
    String(regions ?? ''),
    ...figures.map((value) => value.toFixed(1)),
    aim,
  ];
}

export function instantsTable({ instants, residentMib, peakMib }: InstantsResult): string {
  const header = ['volume', 'snapshots', 'what', 'regions', 'ms', 'most', 'sync ms', 'most', 'beyond', 'aim'];
  const memory = `resident at 1 TiB: ${Math.round(residentMib)} MiB, ${Math.round(peakMib)} MiB at most`;
  return `${aligned([header, ...instants.map(row)])}\n\n${memory}`;
}
