import type { Command } from 'commander';
import type { RestorePlanView } from '../control/snapshot-schemas.ts';
import { formatSize } from '../sizes.ts';
import { type SnapshotArgument, snapshotArgument, volumeNameArgument } from './arguments.ts';
import { follow } from './follow.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';
import { type Column, formatTable } from './table.ts';

interface RestoreFlags extends NodeFlags {
  readonly volume?: string;
  readonly plan?: boolean;
  readonly wait?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function addRestore(program: Command, output: Output): void {
  const command = program
    .command('restore')
    .description('restore a group from a snapshot: at once for every reader, copied in the background')
    .argument('<GROUP@NAME>', 'the snapshot', snapshotArgument)
    .option('--volume <name>', 'only this volume', volumeNameArgument)
    .option('--plan', 'show what would be copied, and change nothing')
    .option('--json', 'the plan as JSON')
    .option('--wait', 'until everything is copied')
    .option(
      '--force',
      'end the sessions and kernel devices that use what is restored, and go on where a link would refuse it',
    );
  withNodeFlags(command).action(async ({ group, snapshot }: SnapshotArgument, flags: RestoreFlags) => {
    if (flags.json === true && flags.plan !== true) command.error('--json goes with --plan');
    await withNode(flags, async (client) => {
      if (flags.plan === true) {
        const plan = await client.planRestore(group, snapshot, flags.volume);
        output.line(flags.json === true ? JSON.stringify(plan, null, 2) : formatPlan(group, plan));
        return;
      }
      const { operation, plan, undo } = await client.restore(group, snapshot, {
        ...(flags.volume === undefined ? {} : { volume: flags.volume }),
        ...(flags.force === true ? { force: true } : {}),
      });
      const what = flags.volume === undefined ? group : `${group}/${flags.volume}`;
      output.line(
        `restored ${what} from ${group}@${snapshot}; to undo it: tidemark restore ${group}@${undo.name}`,
      );
      const amount = `${plan.regions} regions, ${formatSize(plan.bytes)}`;
      if (flags.wait === true) {
        await follow(client, group, operation, output);
        output.line(`copied ${amount}`);
      } else if (operation.state === 'running') {
        output.line(`copying ${amount} in the background, operation ${operation.id}`);
      }
    });
  });
}

const COLUMNS: readonly Column[] = [
  { title: 'VOLUME' },
  { title: 'REGIONS', align: 'right' },
  { title: 'BYTES', align: 'right' },
];

export function formatPlan(group: string, plan: RestorePlanView): string {
  const rows = plan.volumes.map(({ name, regions, bytes }) => [
    `${group}/${name}`,
    String(regions),
    formatSize(bytes),
  ]);
  rows.push(['total', String(plan.regions), formatSize(plan.bytes)]);
  const links = plan.links.map(({ link, path, bytes, note, refused }) => {
    const more = `${note === null ? '' : `; ${note}`}${refused === null ? '' : `; REFUSED: ${refused}`}`;
    return `\nlink ${link}: ${path}, ${formatSize(bytes)} would travel${more}`;
  });
  return `restoring ${group}@${plan.snapshot} would copy:\n${formatTable(COLUMNS, rows)}${links.join('')}`;
}
