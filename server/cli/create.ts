import { type Command, Option } from 'commander';
import { EngineError } from '../../engine/errors.ts';
import { checkGroupSpec } from '../../engine/group-spec.ts';
import { DEFAULT_REGION_BYTES } from '../../engine/units.ts';
import { formatSize } from '../sizes.ts';
import {
  groupArgument,
  pathArgument,
  secondsArgument,
  sizeArgument,
  type VolumeArgument,
  volumeArgument,
} from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface CreateFlags extends NodeFlags {
  readonly volume: VolumeArgument[];
  readonly regionSize?: number;
  readonly logSize?: number;
  readonly log?: string;
  readonly onDiskFull?: 'hold' | 'give-up';
  readonly replica?: boolean;
  readonly applyDelay?: number;
}

export function addCreate(program: Command, output: Output): void {
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
    )
    .option(
      '--log-size <size>',
      'size of the log, a multiple of 4K (default: 1G, more for very large volumes, all of a file that --log names)',
      sizeArgument,
    )
    .option('--log <path>', 'file or device for the log (default: in the state folder)', pathArgument)
    .addOption(
      new Option(
        '--on-disk-full <policy>',
        'hold the writers, or give up the oldest snapshots (default: hold)',
      ).choices(['hold', 'give-up']),
    )
    .option('--replica', 'it takes writes from a primary only: see link add')
    .option(
      '--apply-delay <time>',
      'of a replica: applied so long after it came, such as 90s, 15m or 2h',
      secondsArgument,
    );
  withNodeFlags(command).action(async (name: string, flags: CreateFlags) => {
    if (flags.applyDelay !== undefined && flags.replica !== true)
      command.error('--apply-delay goes with --replica');
    refuseWrongSpec(command, name, flags);
    await withNode(flags, async (client) => {
      const group = await client.createGroup({
        name,
        volumes: flags.volume,
        ...(flags.regionSize === undefined ? {} : { regionSize: flags.regionSize }),
        ...(flags.logSize === undefined ? {} : { logSize: flags.logSize }),
        ...(flags.log === undefined ? {} : { logFile: flags.log }),
        ...(flags.onDiskFull === undefined ? {} : { onDiskFull: flags.onDiskFull }),
        ...(flags.replica === true ? { replica: { applyDelaySeconds: flags.applyDelay ?? 0 } } : {}),
      });
      for (const volume of group.volumes) {
        output.line(
          `created ${volume.export}, ${formatSize(volume.size)}${volume.uri === null ? '' : `, at ${volume.uri}`}`,
        );
      }
    });
  });
}

/** What no node could ever make is wrong usage, as much as what cannot be read. */
function refuseWrongSpec(command: Command, name: string, flags: CreateFlags): void {
  const volumes = flags.volume.map(({ name, size, file }) => ({
    name,
    ...(size === undefined ? {} : { sizeBytes: size }),
    ...(file === undefined ? {} : { file }),
  }));
  try {
    checkGroupSpec({
      name,
      regionBytes: flags.regionSize ?? DEFAULT_REGION_BYTES,
      volumes,
      ...(flags.logSize === undefined ? {} : { logBytes: flags.logSize }),
      ...(flags.log === undefined ? {} : { logFile: flags.log }),
      ...(flags.applyDelay === undefined ? {} : { replica: { applyDelaySeconds: flags.applyDelay } }),
    });
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    command.error(error.message);
  }
}
