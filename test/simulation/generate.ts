/** A plan from a seed. */
import { Random } from '../fixtures/random.ts';
import { CELL_BYTES } from './cells.ts';
import { FIRST_LSNS, nameDrawer, volumeSize } from './drawing.ts';
import { type EarlyEnd, type Operation, type OperationName, type Plan, REGION_BYTES } from './plan.ts';
import type { DiskOperation, FileKind } from './storage.ts';

const REGION_CELLS = REGION_BYTES / CELL_BYTES;
const SECTOR_BYTES = 512;
const KIB = 1024;
const WHOLE_VOLUMES = 0.03;

/** How often each operation is drawn, among those that are enabled. */
const WEIGHTS: Readonly<Record<OperationName, number>> = {
  write: 40,
  settle: 4,
  zero: 4,
  trim: 4,
  flush: 8,
  read: 8,
  snapshot: 7,
  delete: 4,
  rename: 1,
  refresh: 2,
  detach: 1,
  restore: 5,
  'snapshot-write': 6,
  'snapshot-trim': 1,
  'snapshot-flush': 2,
  'snapshot-read': 6,
  import: 1,
  refusals: 1,
  verify: 4,
  wait: 4,
  settled: 2,
  idle: 2,
  'when-full': 0.5,
  damage: 0.5,
  crash: 3,
  reopen: 1,
  fault: 2,
  space: 1,
  heal: 2,
};

export const ALL_OPERATIONS = Object.keys(WEIGHTS) as OperationName[];

/** Those of a disk that works but for power cuts: half of all runs have no others, so that they look far. */
const TROUBLE: readonly OperationName[] = ['fault', 'space'];

/** Also where that of 53 bits would: one node alone goes so far. */
const FAR_FIRST_LSNS = [...FIRST_LSNS, 2 ** 53 - 2 ** 22];

/** What a run is to be like, for who looks for something: everything else is drawn. */
export interface Preferences {
  readonly plan?: Partial<Omit<Plan, 'seed' | 'schedule' | 'operations'>>;
  /** How often an operation is drawn, where that is to be another number than usual. */
  readonly weights?: Partial<Record<OperationName, number>>;
  /** The disks fail in every run, or in none. */
  readonly trouble?: boolean;
  /** How many requests cover a volume whole. */
  readonly wholeVolumes?: number;
  /** Operations come in that order, again and again, and not as they are drawn. */
  readonly cycle?: readonly OperationName[];
  /** How many steps at most lie between two operations. */
  readonly hurry?: number;
  /** What fails, when something does. */
  readonly faults?: readonly { readonly operation: DiskOperation; readonly file: FileKind | 'any' }[];
}

export function generate(
  seed: number,
  operations: readonly OperationName[],
  length: number,
  prefer: Preferences = {},
): Plan {
  const random = new Random(seed);
  const volumeSectors =
    prefer.plan?.volumeSectors ?? Array.from({ length: random.pick([1, 2, 2, 3]) }, () => volumeSize(random));
  const trouble = prefer.trouble ?? random.chance(0.4);
  const enabled = operations.filter((name) => trouble || !TROUBLE.includes(name));
  const drawName = nameDrawer(random, enabled, (name) => prefer.weights?.[name] ?? WEIGHTS[name]);
  const draw = drawer(random, volumeSectors, { hurry: random.pick([0, 2, 8, 30]), ...prefer });
  const list: Operation[] = [];
  const count = random.between(Math.ceil(length / 4), length);
  const { cycle } = prefer;
  while (list.length < count) list.push(draw(cycle?.[list.length % cycle.length] ?? drawName()));
  return {
    seed,
    schedule: random.below(2 ** 32),
    volumeSectors,
    traits: {
      tryRefusal: random.pick([0, 0.05, 0.3, 1]),
      tearing: random.pick([0, 0.2, 0.6]),
      zeroesFast: random.chance(0.5),
      lostAtFailedSync: random.pick([0, 0.5, 1]),
    },
    logBytes: random.pick([256, 256, 512, 1024]) * KIB,
    firstLsn: random.pick(FAR_FIRST_LSNS),
    memoryBytes: random.pick([64 * KIB, 128 * KIB, 512 * KIB, 256 * 1024 * KIB]),
    copyBytesPerSecond: random.pick([0, 0, 0, 1024 * KIB]),
    onFull: random.chance(0.3) ? 'give-up' : 'hold',
    createCrashes: random.chance(0.1) ? drawEnds(random, random.between(1, 2)) : [],
    ...prefer.plan,
    operations: list,
  };
}

interface Range {
  readonly volume: number;
  readonly cell: number;
  readonly cells: number;
}

/** Draws the details of an operation. */
function drawer(
  random: Random,
  volumeSectors: readonly number[],
  { hurry, wholeVolumes = WHOLE_VOLUMES, faults }: Preferences & { readonly hurry: number },
): (op: OperationName) => Operation {
  const anyVolume = (): number => random.below(volumeSectors.length);
  const range = (): Range => {
    const volume = anyVolume();
    return {
      volume,
      ...drawRange(random, ((volumeSectors[volume] ?? 1) * SECTOR_BYTES) / CELL_BYTES, wholeVolumes),
    };
  };
  const pick = (): number => random.below(256);
  const again = (): EarlyEnd[] => drawEnds(random, random.pick([0, 0, 0, 1, 1, 2]));
  const together = (): boolean => random.chance(0.5);
  return (op) => {
    const steps = random.chance(0.3) ? 0 : random.between(0, hurry);
    switch (op) {
      case 'write':
        return { op, ...range(), inline: random.chance(0.7), settle: random.chance(0.7), steps };
      case 'zero':
        return { op, ...range(), mayPunch: random.chance(0.5), fast: random.chance(0.2), steps };
      case 'trim':
        return { op, ...range(), steps };
      case 'read':
        return { op, ...range(), inline: random.chance(0.5), steps };
      case 'flush':
        return { op, volume: anyVolume(), steps };
      case 'snapshot':
        return { op, local: random.chance(0.2), again: random.chance(0.5), together: together(), steps };
      case 'delete':
      case 'rename':
      case 'detach':
        return { op, pick: pick(), together: together(), steps };
      case 'refresh':
        return { op, pick: pick(), force: random.chance(0.5), together: together(), steps };
      case 'restore':
        return {
          op,
          pick: pick(),
          volume: random.chance(0.5) ? anyVolume() : null,
          together: together(),
          steps,
        };
      case 'snapshot-write':
      case 'snapshot-read':
        return { op, pick: pick(), ...range(), inline: random.chance(0.5), steps };
      case 'snapshot-trim':
        return { op, pick: pick(), ...range(), steps };
      case 'snapshot-flush':
        return { op, pick: pick(), volume: anyVolume(), steps };
      case 'import':
        return { op, ...range(), steps };
      case 'crash':
        return { op, power: random.chance(0.6), again: again(), steps };
      case 'fault':
        return { op, ...drawFault(random), ...(faults === undefined ? {} : random.pick(faults)), steps };
      case 'space':
        return { op, pages: random.pick([0, 1, 3, 10, 40]), steps };
      case 'when-full':
        return { op, place: random.below(256), steps };
      case 'damage':
        return { op, power: random.chance(0.6), place: random.below(2 ** 20), steps };
      case 'settle':
      case 'idle':
      case 'refusals':
      case 'verify':
      case 'wait':
      case 'settled':
      case 'reopen':
      case 'heal':
        return { op, steps };
    }
  };
}

function drawEnds(random: Random, count: number): EarlyEnd[] {
  return Array.from({ length: count }, () => ({
    steps: random.between(0, random.pick([5, 40, 150])),
    power: random.chance(0.6),
  }));
}

function drawRange(random: Random, cells: number, wholeVolumes: number): { cell: number; cells: number } {
  const whole = (first: number, count: number) => ({ cell: first, cells: Math.min(count, cells - first) });
  const region = random.below(Math.ceil(cells / REGION_CELLS)) * REGION_CELLS;
  if (random.chance(wholeVolumes)) return whole(0, cells);
  if (random.chance(0.3)) return whole(region, REGION_CELLS);
  if (random.chance(0.2)) return whole(region, REGION_CELLS * random.between(2, 5));
  // Anywhere, and more often than not across a border.
  const first = Math.min(
    cells - 1,
    random.chance(0.5) ? random.below(cells) : Math.max(0, region - random.between(0, 3)),
  );
  return whole(first, random.pick([1, 2, 3, 8, REGION_CELLS, REGION_CELLS + 3, REGION_CELLS * 2]));
}

function drawFault(random: Random): {
  operation: DiskOperation;
  file: FileKind | 'any';
  times: number | null;
} {
  return {
    operation: random.pick<DiskOperation>([
      'read',
      'write',
      'write',
      'sync',
      'sync',
      'sync',
      'zero',
      'punch',
      'create',
      'remove',
    ]),
    file: random.pick<FileKind | 'any'>(['record', 'log', 'volume', 'map', 'store', 'any']),
    times: random.chance(0.7) ? random.between(1, 2) : null,
  };
}
