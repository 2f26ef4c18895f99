import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { CheckFinding, CheckReport, RegionsInDoubt } from '../../engine/check/report.ts';
import { EngineError } from '../../engine/errors.ts';
import { formatSize } from '../sizes.ts';
import { statePaths } from '../state-paths.ts';
import { groupArgument } from './arguments.ts';
import { DONE, REFUSED } from './exit-status.ts';
import type { Finish } from './program.ts';
import { type Output, stateFolderOf, withStateFlag } from './session.ts';

interface CheckFlags {
  readonly state?: string;
  readonly json?: boolean;
}

/** Runs of regions that are shown of a finding; `--json` has all that were kept. */
const SHOWN_RUNS = 8;

/** Looks at the files of a stopped node, and changes none. */
export function addCheck(program: Command, output: Output, finish: Finish): void {
  const command = program
    .command('check')
    .description('check log, maps and stores of a group whose node is stopped; changes nothing')
    .argument('<group>', 'its name', groupArgument)
    .option('--json', 'as JSON');
  withStateFlag(command).action(async (name: string, flags: CheckFlags) => {
    const report = await checkGroupOf(stateFolderOf(flags), name);
    output.line(flags.json === true ? JSON.stringify(report, null, 2) : formatReport(name, report));
    finish(report.severity === 'ok' || report.severity === 'note' ? DONE : REFUSED);
  });
}

async function checkGroupOf(stateFolder: string, name: string): Promise<CheckReport> {
  // Loaded here, so that every other command starts without the engine.
  const [{ FileFolder }, { checkGroup }, { systemClock }] = await Promise.all([
    import('../../engine/disk/file-folder.ts'),
    import('../../engine/check.ts'),
    import('../../engine/clock.ts'),
  ]);
  const path = join(statePaths(stateFolder).groups, name);
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() !== true)
    throw new EngineError(
      'not-found',
      `there is no group ${name} in ${stateFolder}: name the state folder with --state`,
    );
  try {
    return await checkGroup(await FileFolder.open(path), systemClock);
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'in-use') throw error;
    throw new EngineError('in-use', `group ${name} is open: stop its node, then check`, { cause: error });
  }
}

export function formatReport(name: string, report: CheckReport): string {
  const lines = report.findings.flatMap((finding) => formatFinding(finding));
  const { log } = report;
  if (log !== undefined)
    lines.push(
      `the log holds ${log.batches} batches (${log.records} records, ${log.controlRecords} control records, ` +
        `${formatSize(log.replayBytes)}) that are still to be applied`,
    );
  const verdict = report.opens ? 'a node opens it' : 'a node would not open it';
  lines.push(`group ${name}: ${report.severity}, ${verdict}`);
  return lines.join('\n');
}

function formatFinding({ severity, where, what, advice, regions }: CheckFinding): string[] {
  const lines = [`${severity.padEnd(6)}  ${where}: ${what}`];
  if (regions !== undefined) lines.push(`        ${formatRegions(regions)}`);
  if (advice !== undefined) lines.push(`        → ${advice}`);
  return lines;
}

function formatRegions({ volume, snapshot, runs, regionCount }: RegionsInDoubt): string {
  const of = snapshot === undefined ? `volume ${volume}` : `volume ${volume} as of snapshot ${snapshot}`;
  const shown = runs
    .slice(0, SHOWN_RUNS)
    .map(({ first, end }) => (end === first + 1 ? `${first}` : `${first}-${end - 1}`));
  const more = runs.length > SHOWN_RUNS ? ', …' : '';
  return `${regionCount} regions in doubt of ${of}: ${shown.join(', ')}${more}`;
}
