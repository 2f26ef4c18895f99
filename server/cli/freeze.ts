import type { Command } from 'commander';
import { groupArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

/** `freeze` and `thaw`. */
export function addFreeze(program: Command, output: Output): void {
  for (const what of ['freeze', 'thaw'] as const) {
    const command = program
      .command(what)
      .description(
        what === 'freeze'
          ? 'keep a secondary as it is: what its primary sends is kept, and not applied'
          : 'let a frozen secondary apply what it has, and show at once what a resync has brought',
      )
      .argument('<group>', 'a group that is a secondary here', groupArgument);
    withNodeFlags(command).action((group: string, flags: NodeFlags) =>
      withNode(flags, async (client) => {
        await client[what](group);
        output.line(what === 'freeze' ? `${group} is frozen` : `${group} goes on`);
      }),
    );
  }
}
