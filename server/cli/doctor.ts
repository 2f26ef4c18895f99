import type { Command } from 'commander';
import type { DoctorFinding } from '../kernel/doctor.ts';
import { DONE, REFUSED } from './exit-status.ts';
import type { Finish } from './program.ts';
import { type NodeFlags, type Output, stateFolderOf, withNodeFlags } from './session.ts';

interface DoctorFlags extends NodeFlags {
  readonly json?: boolean;
}

/** Looks at this machine, not at a node: it is for the time before one runs. */
export function addDoctor(program: Command, output: Output, finish: Finish): void {
  const command = program
    .command('doctor')
    .description('check what this machine has of what Tidemark needs')
    .option('--json', 'as JSON');
  withNodeFlags(command).action(async (flags: DoctorFlags) => {
    const { runDoctor } = await import('../kernel/doctor.ts');
    const findings = await runDoctor(stateFolderOf(flags));
    output.line(flags.json === true ? JSON.stringify({ findings }, null, 2) : formatFindings(findings));
    finish(findings.some((finding) => markOf(finding) === MISSING) ? REFUSED : DONE);
  });
}

const MISSING = 'MISSING';

/** What is missing, and needed for nothing, is worth a note. */
function markOf(finding: DoctorFinding): string {
  if (finding.ok) return 'ok';
  return finding.neededFor === 'nothing' ? 'note' : MISSING;
}

export function formatFindings(findings: readonly DoctorFinding[]): string {
  const width = Math.max(...findings.map((finding) => finding.check.length));
  return findings
    .map((finding) => {
      const mark = markOf(finding).padEnd(MISSING.length);
      const line = `${mark}  ${finding.check.padEnd(width)}  ${finding.detail}`;
      return finding.ok || finding.remedy === undefined
        ? line
        : `${line}\n         ${' '.repeat(width)}  → ${finding.remedy}`;
    })
    .join('\n');
}
