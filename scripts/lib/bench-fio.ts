import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from './command.ts';

const DEFAULT_RAMP_SECONDS = 0.5;

export interface FioLoad {
  readonly pattern: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockBytes: number;
  /** Requests in flight. */
  readonly depth: number;
  /** A flush after each write, waited for. */
  readonly flushEach?: boolean;
  /** How long it runs before it is measured; half a second unless told. */
  readonly rampSeconds?: number;
}

export interface Measurement {
  readonly iops: number;
  /** Mean completion latency. */
  readonly latencyUs: number;
  readonly latencyP99Us: number;
  /** CPU seconds that fio itself took for each second of the load. */
  readonly cpuShare: number;
  /** What it ran before that is not in the figures. */
  readonly rampSeconds: number;
}

interface FioSide {
  readonly iops: number;
  readonly clat_ns: { readonly mean: number; readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly {
    readonly read: FioSide;
    readonly write: FioSide;
    readonly error: number;
    /** In percent of one processor. */
    readonly usr_cpu: number;
    readonly sys_cpu: number;
  }[];
}

/**
 * Runs one load for `seconds` with fio's nbd engine. All servers of a round get the same `seed`, hence the same
 * offsets.
 */
export async function measure(
  load: FioLoad,
  uri: string,
  sizeBytes: number,
  seconds: number,
  seed: number,
  folder: string,
): Promise<Measurement> {
  const output = join(folder, 'fio.json');
  const rampSeconds = load.rampSeconds ?? DEFAULT_RAMP_SECONDS;
  await mustRun('fio', [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${load.pattern}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--size=${sizeBytes}`,
    '--time_based=1',
    `--runtime=${seconds}`,
    `--ramp_time=${rampSeconds}`,
    ...(load.flushEach === true ? ['--fsync=1'] : []),
    '--norandommap=1',
    `--randseed=${seed}`,
    '--output-format=json',
    `--output=${output}`,
  ]);
  // fio puts remarks before the report.
  const text = await readFile(output, 'utf8');
  await rm(output);
  const report = JSON.parse(text.slice(text.indexOf('{'))) as FioReport;
  const job = report.jobs[0];
  if (job === undefined || job.error !== 0) throw new Error(`fio failed on ${uri}: ${text.slice(0, 400)}`);
  const side = load.pattern.endsWith('read') ? job.read : job.write;
  return {
    iops: side.iops,
    latencyUs: side.clat_ns.mean / 1000,
    latencyP99Us: (side.clat_ns.percentile?.['99.000000'] ?? Number.NaN) / 1000,
    cpuShare: (job.usr_cpu + job.sys_cpu) / 100,
    rampSeconds,
  };
}
