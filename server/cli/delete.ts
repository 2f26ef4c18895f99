import type { Command } from 'commander';
import { groupArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

export function addDelete(program: Command, output: Output): void {
  const command = program
    .command('delete')
    .description('delete a group that nobody uses; files named at create stay')
    .argument('<group>', 'its name', groupArgument);
  withNodeFlags(command).action((name: string, flags: NodeFlags) =>
    withNode(flags, async (client) => {
      await client.deleteGroup(name);
      output.line(`deleted ${name}`);
    }),
  );
}
