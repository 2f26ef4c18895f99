import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Cell } from './bench-cells.ts';
import { mustRun } from './command.ts';

export interface Measurement {
  readonly iops: number;
  /** Mean completion latency. */
  readonly latencyUs: number;
  readonly latencyP99Us: number;
}

interface FioSide {
  readonly iops: number;
  readonly clat_ns: { readonly mean: number; readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly { readonly read: FioSide; readonly write: FioSide; readonly error: number }[];
}

/**
 * Runs one load for `seconds` with fio's nbd engine. All servers of a round get the same `seed`, hence the same
 * offsets.
 */
export async function measure(
  cell: Cell,
  uri: string,
  sizeBytes: number,
  seconds: number,
  seed: number,
  folder: string,
): Promise<Measurement> {
  const output = join(folder, 'fio.json');
  await mustRun('fio', [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${cell.pattern}`,
    `--bs=${cell.blockBytes}`,
    `--iodepth=${cell.depth}`,
    `--size=${sizeBytes}`,
    '--time_based=1',
    `--runtime=${seconds}`,
    '--ramp_time=0.5',
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
  const side = cell.pattern.endsWith('read') ? job.read : job.write;
  return {
    iops: side.iops,
    latencyUs: side.clat_ns.mean / 1000,
    latencyP99Us: (side.clat_ns.percentile?.['99.000000'] ?? Number.NaN) / 1000,
  };
}
