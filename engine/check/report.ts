/** What a check of a group's files found, for people. */
import type { RegionRun } from '../map/region-map.ts';
import type { Lsn } from '../units.ts';

/**
 * - `ok`: looked at, and as it has to be.
 * - `note`: worth knowing; nothing is lost.
 * - `doubt`: damaged, and a node goes on with a safe assumption, which is told.
 * - `damage`: something is lost: a node refuses to open the group, or to read what is named.
 */
export type Severity = 'ok' | 'note' | 'doubt' | 'damage';

export const SEVERITIES: readonly Severity[] = ['ok', 'note', 'doubt', 'damage'];

/** Regions of a volume, or of a snapshot of it, that a finding is about. */
export interface RegionsInDoubt {
  readonly volume: string;
  /** Name of the snapshot, or its id where it has none; undefined: the volume itself. */
  readonly snapshot: string | undefined;
  /** In order. Cut off after `MAX_RUNS`. */
  readonly runs: readonly RegionRun[];
  /** Of all of them. */
  readonly regionCount: number;
}

export interface CheckFinding {
  readonly severity: Severity;
  /** The file or thing, such as `log` or `snapshot s of volume v`. */
  readonly where: string;
  /** What was found, a line. */
  readonly what: string;
  /** What it means and what can be done, a line; absent where there is nothing to say. */
  readonly advice?: string;
  readonly regions?: RegionsInDoubt;
}

export interface LogFigures {
  readonly sizeBytes: number;
  /** The oldest record that is kept. */
  readonly tailLsn: Lsn;
  /** Where a node begins to apply when it is started. */
  readonly checkpointLsn: Lsn;
  readonly endLsn: Lsn;
  /** From the checkpoint on. */
  readonly batches: number;
  readonly records: number;
  readonly controlRecords: number;
  readonly replayBytes: number;
}

export interface CheckReport {
  /** Undefined when its record cannot be read. */
  readonly group: { readonly name: string; readonly id: string; readonly regionBytes: number } | undefined;
  /** Of the worst finding. */
  readonly severity: Severity;
  /** Whether a node would open it. */
  readonly opens: boolean;
  /** Undefined when it cannot be read. */
  readonly log: LogFigures | undefined;
  readonly findings: readonly CheckFinding[];
}

/** Runs of a finding at most. */
export const MAX_RUNS = 1000;

export class Findings {
  readonly all: CheckFinding[] = [];

  add(severity: Severity, where: string, what: string, advice?: string, regions?: RegionsInDoubt): void {
    const more = {
      ...(advice === undefined ? {} : { advice }),
      ...(regions === undefined ? {} : { regions }),
    };
    this.all.push({ severity, where, what, ...more });
  }

  /** `doubt` where a disk, or this version, cannot tell; `damage` where it is what is on the disk. */
  addError(where: string, error: unknown, advice?: string): void {
    const message = error instanceof Error ? error.message : String(error);
    this.add(isDamage(error) ? 'damage' : 'doubt', where, message, advice);
  }

  get worst(): Severity {
    const rank = (severity: Severity) => SEVERITIES.indexOf(severity);
    return this.all.reduce<Severity>(
      (worst, { severity }) => (rank(severity) > rank(worst) ? severity : worst),
      'ok',
    );
  }
}

function isDamage(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return code !== 'unsupported' && code !== 'in-use';
}

export function regionsInDoubt(
  volume: string,
  snapshot: string | undefined,
  runs: readonly RegionRun[],
): RegionsInDoubt {
  const regionCount = runs.reduce((sum, { first, end }) => sum + end - first, 0);
  return { volume, snapshot, runs: runs.slice(0, MAX_RUNS), regionCount };
}
