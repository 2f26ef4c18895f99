import { join } from 'node:path';
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
 * 4 KiB in flight each, and with 4 of 32 MiB each, which share the bytes that a setting grants them.
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
  ];
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
