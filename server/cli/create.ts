import type { Command } from 'commander';
import { formatSize } from '../sizes.ts';
import { groupArgument, sizeArgument, type VolumeArgument, volumeArgument } from './arguments.ts';
import type { Finish } from './program.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface CreateFlags extends NodeFlags {
  readonly volume: VolumeArgument[];
  readonly regionSize?: number;
}

export function addCreate(program: Command, output: Output, finish: Finish): void {
  const command = program
    .command('create')
    .description('create a group of volumes and export them')
    .argument('<group>', 'its name', groupArgument)
    .requiredOption(
      '--volume <NAME:SIZE[,file=PATH]>',
      'a volume; may be given several times',
      volumeArgument,
    )
    .option(
      '--region-size <size>',
      'size of a region: a power of two from 4K to 32M (default: 64K)',
      sizeArgument,
    );
  withNodeFlags(command).action(async (name: string, flags: CreateFlags) => {
    const status = await withNode(flags, async (client) => {
      const group = await client.createGroup({
        name,
        volumes: flags.volume,
        ...(flags.regionSize === undefined ? {} : { regionSize: flags.regionSize }),
      });
      for (const volume of group.volumes) {
        output.line(
          `created ${volume.export}, ${formatSize(volume.size)}${volume.uri === null ? '' : `, at ${volume.uri}`}`,
        );
      }
      return undefined;
    });
    finish(status);
  });
}
