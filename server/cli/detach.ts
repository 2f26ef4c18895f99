import type { Command } from 'commander';
import { deviceArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface DetachFlags extends NodeFlags {
  readonly force?: boolean;
}

export function addDetach(program: Command, output: Output): void {
  const command = program
    .command('detach')
    .description('detach a kernel device')
    .argument('<device>', 'such as /dev/nbd0', deviceArgument)
    .option('--force', 'also while it is mounted or held: what is not yet written to it is lost');
  withNodeFlags(command).action((device: string, flags: DetachFlags) =>
    withNode(flags, async (client) => {
      await client.detach(device, flags.force === true);
      output.line(`detached ${device}`);
    }),
  );
}
