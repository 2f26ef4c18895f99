import type { Command } from 'commander';
import { formatSize } from '../sizes.ts';
import { exportOfVolumeArgument, pathArgument, type VolumeOfGroup } from './arguments.ts';
import { follow } from './follow.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface ImportFlags extends NodeFlags {
  readonly force?: boolean;
}

export function addImport(program: Command, output: Output): void {
  const command = program
    .command('import')
    .description('write an image into a volume, and wait for the end; only regions that differ are written')
    .argument('<GROUP/VOLUME>', 'the volume', exportOfVolumeArgument)
    .argument('<file>', 'a raw image or block device, that the node can read', pathArgument)
    .option('--force', 'end the sessions and kernel devices that use the volume');
  withNodeFlags(command).action(({ group, volume }: VolumeOfGroup, file: string, flags: ImportFlags) =>
    withNode(flags, async (client) => {
      const force = flags.force === true;
      const begun = await client.import(group, volume, { file, ...(force ? { force } : {}) });
      const { result } = await follow(client, group, begun, output);
      const { regionsWritten = 0, regionsCompared = 0, bytesWritten = 0 } = result ?? {};
      output.line(
        `imported ${file} into ${group}/${volume}: ${regionsWritten} of ${regionsCompared} regions differed, ${formatSize(bytesWritten)} written`,
      );
    }),
  );
}
