import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlClient } from '../../server/control/client.ts';
import { aligned } from './bench-report.ts';
import { type Load, putLoad } from './nbd-load.ts';
import { ServedNode } from './served-node.ts';

const KIBIBYTE_BYTES = 1024;
const MEBIBYTE_BYTES = 1024 * KIBIBYTE_BYTES;
const TEBIBYTE_BYTES = 2 ** 40;

const CONNECTIONS = 64;

/** Small requests of each connection: long enough for every buffer to have been in use. */
const SMALL: Shape = { requestBytes: 4 * KIBIBYTE_BYTES, depth: 64, requestsPerConnection: 4096 };
/** All large requests are sent at once: 8 GiB that ask for room at the same time. */
const LARGE: Shape = { requestBytes: 32 * MEBIBYTE_BYTES, depth: 4, requestsPerConnection: 4 };

/** Between two looks at what a group keeps in memory. */
const LOOK_MS = 250;

type Shape = Pick<Load, 'requestBytes' | 'depth' | 'requestsPerConnection'>;

export interface MemoryResult {
  readonly name: string;
  readonly value: number;
  readonly unit: 'ms' | 'MiB';
  /** What we aim to stay below; undefined where a setting is the bound. */
  readonly aim?: number;
}

/**
 * Start time and memory of a node that serves a sparse volume of 1 TiB: idle, under 64 connections with 64 requests of
 * 4 KiB in flight each, and with 4 of 32 MiB each, which share the bytes that a setting grants them. Then the same with a
 * snapshot, and with twenty, under writes all over the volume: each has a region to be preserved, so that what is logged
 * and not applied fills the log.
 */
export async function measureMemory(folder: string): Promise<MemoryResult[]> {
  const stateFolder = join(folder, 'state');
  const first = await ServedNode.start({ stateFolder });
  try {
    await first.create('bench', 'disk:1T');
  } finally {
    await first.stop();
  }
  const idle = await restarted(stateFolder, undefined);
  const small = await restarted(stateFolder, load(SMALL));
  const large = await restarted(stateFolder, load(LARGE));
  return [
    { name: 'start with a sparse volume of 1 TiB', value: idle.startMs, unit: 'ms', aim: 1000 },
    { name: 'resident after the start', value: idle.residentMib, unit: 'MiB', aim: 200 },
    { name: '64 connections x 64 x 4 KiB, most resident', value: small.peakMib, unit: 'MiB', aim: 400 },
    { name: '64 connections x 4 x 32 MiB, most resident', value: large.peakMib, unit: 'MiB' },
    ...(await measurePending(join(folder, 'one'), 1)),
    ...(await measurePending(join(folder, 'twenty'), 20)),
  ];
}

async function measurePending(stateFolder: string, snapshots: number): Promise<MemoryResult[]> {
  const node = await ServedNode.start({ stateFolder });
  const control = new ControlClient(join(stateFolder, 'control.sock'));
  try {
    await node.create('bench', 'disk:1T');
    const uri = node.uri('bench/disk');
    for (let number = 1; number <= snapshots; number++) {
      await control.createSnapshot('bench', { name: `s${number}` });
      const requestsPerConnection = SMALL.requestsPerConnection / snapshots;
      if (number < snapshots) await putLoad({ ...load({ ...SMALL, requestsPerConnection }), writes: 1, uri });
    }
    const looks = new Looks(control);
    await Promise.all([
      putLoad({ ...load(SMALL), writes: 1, uri }).finally(() => {
        looks.stop();
      }),
      looks.run(),
    ]);
    await untilApplied(control);
    const what = `${snapshots === 1 ? 'a snapshot' : `${snapshots} snapshots`}, 64 connections x 64 x 4 KiB, writes`;
    const peakMib = (await node.peakResidentBytes()) / MEBIBYTE_BYTES;
    return [
      {
        name: `${what}: most payload, index and maps`,
        value: looks.mostMib,
        unit: 'MiB',
        aim: looks.limitMib,
      },
      { name: `${what}: most resident`, value: peakMib, unit: 'MiB' },
    ];
  } finally {
    control.close();
    await node.stop();
  }
}

/** A node that stops applies all that it has logged, which would not end within what a stop is given. */
async function untilApplied(control: ControlClient): Promise<void> {
  for (;;) {
    const { log } = await control.group('bench');
    if (log === null || log.appliedLsn === log.endLsn) return;
    await sleep(LOOK_MS);
  }
}

/** Looks again and again at what a group says that it keeps in memory. */
class Looks {
  readonly #control: ControlClient;
  #stopped = false;
  mostMib = 0;
  limitMib = 0;

  constructor(control: ControlClient) {
    this.#control = control;
  }

  stop(): void {
    this.#stopped = true;
  }

  async run(): Promise<void> {
    while (!this.#stopped) {
      const text = await this.#control.metrics();
      const mib = (name: string) => {
        const value = new RegExp(`^tidemark_group_${name}_bytes\\{[^}]*\\} (\\d+)$`, 'm').exec(text)?.[1];
        if (value === undefined) throw new Error(`The metrics have no tidemark_group_${name}_bytes.`);
        return Number(value) / MEBIBYTE_BYTES;
      };
      this.limitMib = mib('memory_limit');
      this.mostMib = Math.max(this.mostMib, mib('payload') + mib('index') + mib('map'));
      await sleep(LOOK_MS);
    }
  }
}

export function memoryTable(results: readonly MemoryResult[]): string {
  const rows = results.map(({ name, value, unit, aim }) => {
    const aimText = aim === undefined ? 'by setting' : `${aim} ${unit}${value > aim ? ', missed' : ''}`;
    return [name, `${Math.round(value)} ${unit}`, aimText];
  });
  return aligned([['measure', 'value', 'aim'], ...rows]);
}

function load(shape: Shape): Omit<Load, 'uri'> {
  return { ...shape, connections: CONNECTIONS, sizeBytes: span(shape.requestBytes) };
}

/**
 * Writes of the large load stay within 8 GiB of the volume, so that a laptop's disk can hold them; small ones go all
 * over it, which is what fills a region map.
 */
function span(requestBytes: number): number {
  return requestBytes > MEBIBYTE_BYTES ? 8 * 1024 * MEBIBYTE_BYTES : TEBIBYTE_BYTES;
}

interface Usage {
  readonly startMs: number;
  readonly residentMib: number;
  readonly peakMib: number;
}

async function restarted(stateFolder: string, underLoad: Omit<Load, 'uri'> | undefined): Promise<Usage> {
  const node = await ServedNode.start({ stateFolder });
  try {
    const residentMib = (await node.residentBytes()) / MEBIBYTE_BYTES;
    if (underLoad !== undefined) await putLoad({ ...underLoad, uri: node.uri('bench/disk') });
    const peakMib = (await node.peakResidentBytes()) / MEBIBYTE_BYTES;
    return { startMs: node.startMs, residentMib, peakMib };
  } finally {
    await node.stop();
  }
}
