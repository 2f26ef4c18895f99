import type { Command } from 'commander';
import { MAX_DEVICE_CONNECTIONS } from '../kernel/device-limits.ts';
import { countArgument, deviceArgument, exportArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface AttachFlags extends NodeFlags {
  readonly connections?: number;
  readonly readOnly?: boolean;
  readonly timeout?: number;
}

/** The kernel takes seconds as a number of clock ticks; a day is beyond any use. */
const MAX_TIMEOUT_SECONDS = 86_400;

export function addAttach(program: Command, output: Output): void {
  const command = program
    .command('attach')
    .description('attach a volume, or a snapshot of one, to a kernel device, and print its name')
    .argument('<GROUP/VOLUME[@SNAPSHOT]>', 'the volume', exportArgument)
    .argument('[device]', 'such as /dev/nbd0 (default: the first free one)', deviceArgument)
    .option(
      '--connections <n>',
      'connections to the node (default: 1)',
      countArgument(1, MAX_DEVICE_CONNECTIONS),
    )
    .option('--read-only', 'refuse writes')
    .option(
      '--timeout <seconds>',
      'fail requests that take longer (default: 0, never)',
      countArgument(0, MAX_TIMEOUT_SECONDS),
    );
  withNodeFlags(command).action((exportName: string, device: string | undefined, flags: AttachFlags) =>
    withNode(flags, async (client) => {
      const attached = await client.attach({
        export: exportName,
        ...(device === undefined ? {} : { device }),
        ...(flags.connections === undefined ? {} : { connections: flags.connections }),
        ...(flags.readOnly === undefined ? {} : { readOnly: flags.readOnly }),
        ...(flags.timeout === undefined ? {} : { timeoutSeconds: flags.timeout }),
      });
      output.line(attached.device);
    }),
  );
}
