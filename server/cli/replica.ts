import type { Command } from 'commander';
import { groupArgument, secondsArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface SetFlags extends NodeFlags {
  readonly applyDelay: number;
}

export function addReplica(program: Command, output: Output): void {
  const replica = program.command('replica').description('how a secondary takes what its primary sends');
  const command = replica
    .command('set')
    .description('change the settings of a secondary')
    .argument('<group>', 'a group that is a secondary here', groupArgument)
    .requiredOption(
      '--apply-delay <time>',
      'what comes is applied so much later, such as 90s, 15m or 2h; 0: at once',
      secondsArgument,
    );
  withNodeFlags(command).action((group: string, flags: SetFlags) =>
    withNode(flags, async (client) => {
      await client.setReplica(group, { applyDelaySeconds: flags.applyDelay });
      output.line(
        flags.applyDelay === 0
          ? `${group} applies what comes at once`
          : `${group} applies what comes ${flags.applyDelay} s later`,
      );
    }),
  );
}
