/** A plan of several nodes from a seed. */
import { Random } from '../../fixtures/random.ts';
import { CELL_BYTES } from '../cells.ts';
import { FIRST_LSNS, nameDrawer, volumeSize } from '../drawing.ts';
import { REGION_BYTES } from '../plan.ts';
import type {
  ClusterOperation,
  ClusterOperationName,
  ClusterPlan,
  LinkMode,
  OnLost,
  SecondaryPlan,
} from './plan.ts';

const REGION_CELLS = REGION_BYTES / CELL_BYTES;
const SECTOR_BYTES = 512;
const KIB = 1024;
/** Makes of a seed another one. */
const MODES = 0x4b34_6d6f;

/** How often each operation is drawn. */
const WEIGHTS: Readonly<Record<Exclude<ClusterOperationName, 'mode'>, number>> = {
  write: 40,
  trim: 3,
  flush: 6,
  snapshot: 6,
  delete: 2,
  rename: 1,
  refresh: 2,
  detach: 2,
  restore: 6,
  'snapshot-write': 4,
  check: 8,
  'local-snapshot': 1,
  'change-there': 1,
  freeze: 1,
  thaw: 1,
  crash: 4,
  cut: 3,
  slow: 1,
  pause: 1.5,
  resume: 2,
  verify: 2,
  equal: 1.5,
};

export const ALL_CLUSTER_OPERATIONS = Object.keys(WEIGHTS) as DrawnName[];

/** Changes of modes are drawn apart. */
export type DrawnName = Exclude<ClusterOperationName, 'mode'>;

/** What a run is to be like, for who looks for something: everything else is drawn. */
export interface ClusterPreferences {
  readonly plan?: Partial<Omit<ClusterPlan, 'seed' | 'schedule' | 'operations'>>;
  readonly weights?: Partial<Record<DrawnName, number>>;
}

export function generateCluster(
  seed: number,
  operations: readonly DrawnName[],
  length: number,
  prefer: ClusterPreferences = {},
): ClusterPlan {
  const random = new Random(seed);
  const volumeSectors = Array.from({ length: random.pick([1, 2, 2, 3]) }, () => volumeSize(random));
  const count = random.between(Math.ceil(length / 4), length);
  const secondaries = Array.from({ length: random.pick([1, 1, 1, 2, 3]) }, () => secondary(random, count));
  const drawName = nameDrawer(random, operations, (name) => prefer.weights?.[name] ?? WEIGHTS[name]);
  const hurry = random.pick([0, 4, 15, 60, 200]);
  const draw = drawer(random, prefer.plan?.volumeSectors ?? volumeSectors, 1 + secondaries.length, hurry);
  const list: ClusterOperation[] = [];
  while (list.length < count) list.push(draw(drawName()));
  const isGiven = prefer.plan?.secondaries !== undefined;
  const drawnApart = isGiven
    ? { secondaries, operations: list }
    : withModes(new Random((seed ^ MODES) >>> 0), secondaries, list);
  const plan = {
    seed,
    schedule: random.below(2 ** 32),
    volumeSectors,
    traits: {
      tryRefusal: random.pick([0, 0, 0.05]),
      tearing: random.pick([0, 0.2, 0.6]),
      zeroesFast: random.chance(0.5),
      lostAtFailedSync: 0.5,
    },
    logBytes: random.pick([256, 256, 512, 1024]) * KIB,
    firstLsn: random.pick(FIRST_LSNS),
    memoryBytes: random.pick([64 * KIB, 512 * KIB, 256 * 1024 * KIB]),
    copyBytesPerSecond: random.pick([0, 0, 0, 1024 * KIB]),
    secondaries: drawnApart.secondaries,
    ...prefer.plan,
    operations: drawnApart.operations,
  };
  // One of which the log is smaller than that is refused.
  const fitting = plan.secondaries.map((one) => ({
    ...one,
    logBytes: Math.max(one.logBytes, plan.logBytes / 2),
  }));
  return { ...plan, secondaries: prefer.plan?.secondaries === undefined ? cascaded(seed, fitting) : fitting };
}

/** Some are fed by others among them. What else is drawn is the same with and without. */
function cascaded(seed: number, secondaries: readonly SecondaryPlan[]): readonly SecondaryPlan[] {
  const random = new Random((seed ^ 0x11) >>> 0);
  const all: SecondaryPlan[] = [];
  for (const own of secondaries) {
    const feeder = random.below(all.length + 1);
    const above = all[feeder - 1];
    // What a secondary's log has in one piece may take all of it.
    if (above === undefined) all.push(own);
    else all.push({ ...own, feeder, mode: 'async', logBytes: Math.max(own.logBytes, above.logBytes) });
  }
  return all;
}

/** Half of the runs have links of other modes than `async`, and some that change them. From numbers of their own, so that all else stays as it is without them. */
function withModes(
  random: Random,
  secondaries: readonly SecondaryPlan[],
  operations: readonly ClusterOperation[],
): { secondaries: readonly SecondaryPlan[]; operations: readonly ClusterOperation[] } {
  if (random.chance(0.5)) return { secondaries, operations };
  const onLost = (): OnLost => random.pick(['go-on', 'block', 'block']);
  const list = [...operations];
  for (let count = random.pick([0, 0, 1, 3]); count > 0; count--) {
    const mode = random.pick<LinkMode>(['async', 'memory', 'sync', 'sync']);
    const change = {
      op: 'mode',
      pick: random.below(256),
      mode,
      onLost: onLost(),
      steps: random.below(20),
    } as const;
    list.splice(random.below(list.length + 1), 0, change);
  }
  const drawn = secondaries.map((one) => {
    const own = { mode: random.pick<LinkMode>(['async', 'memory', 'sync', 'sync']), onLost: onLost() };
    // One that blocks may not detach itself.
    return { ...one, ...own, onFull: one.onFull === 'detach' ? 'dcm' : one.onFull };
  });
  return { secondaries: drawn, operations: list };
}

function secondary(random: Random, operations: number): SecondaryPlan {
  return {
    logBytes: random.pick([256, 256, 512]) * KIB,
    mode: 'async',
    onFull: random.pick(['dcm', 'dcm', 'dcm', 'block', 'detach']),
    limitBytes: random.pick([0, 8 * KIB, 32 * KIB, 64 * KIB]),
    rateBytesPerSecond: random.pick([0, 0, 1024 * KIB]),
    joinsAt: random.chance(0.5) ? 0 : random.below(Math.ceil(operations / 2)),
    applyDelaySeconds: random.pick([0, 0, 0, 1, 10]),
  };
}

function drawer(
  random: Random,
  volumeSectors: readonly number[],
  nodes: number,
  hurry: number,
): (op: DrawnName) => ClusterOperation {
  const range = (): { volume: number; cell: number; cells: number } => {
    const volume = random.below(volumeSectors.length);
    const cells = ((volumeSectors[volume] ?? 1) * SECTOR_BYTES) / CELL_BYTES;
    const cell = random.below(cells);
    return {
      volume,
      cell,
      cells: Math.min(cells - cell, random.pick([1, 2, 3, 8, REGION_CELLS, REGION_CELLS * 2])),
    };
  };
  const pick = (): number => random.below(256);
  const anyNode = (): number => random.below(nodes);
  const aSecondary = (): number => random.between(1, Math.max(1, nodes - 1));
  const down = (): number => random.pick([0, 20, 100, 400]);
  return (op) => {
    const steps = random.chance(0.3) ? 0 : random.between(0, hurry);
    switch (op) {
      case 'write':
      case 'trim':
        return { op, ...range(), steps };
      case 'snapshot':
        return { op, local: random.chance(0.2), steps };
      case 'delete':
      case 'rename':
      case 'refresh':
      case 'detach':
      case 'pause':
      case 'resume':
      case 'verify':
        return { op, pick: pick(), steps };
      case 'restore':
        return {
          op,
          pick: pick(),
          volume: random.chance(0.4) ? random.below(volumeSectors.length) : null,
          steps,
        };
      case 'snapshot-write':
        return { op, node: random.chance(0.6) ? 0 : anyNode(), pick: pick(), ...range(), steps };
      case 'check':
        return { op, node: random.chance(0.2) ? 0 : aSecondary(), steps };
      case 'change-there':
        return {
          op,
          node: aSecondary(),
          what: random.pick(['detach', 'detach', 'delete']),
          pick: pick(),
          steps,
        };
      case 'local-snapshot':
      case 'freeze':
      case 'thaw':
        return { op, node: aSecondary(), steps };
      case 'crash':
        return { op, node: anyNode(), power: random.chance(0.6), down: down(), steps };
      case 'cut':
        return { op, node: aSecondary(), down: down(), steps };
      case 'slow':
        return { op, node: aSecondary(), factor: random.pick([1, 1, 5, 30]), steps };
      case 'flush':
      case 'equal':
        return { op, steps };
    }
  };
}
