import type { Command } from 'commander';
import { EngineError } from '../../engine/errors.ts';
import type { LinkStatus } from '../control/link-schemas.ts';
import { formatSize } from '../sizes.ts';
import { groupArgument, linkNameArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface ResyncFlags extends NodeFlags {
  readonly link?: string;
  readonly full?: boolean;
  readonly plan?: boolean;
}

export function addResync(program: Command, output: Output): void {
  const command = program
    .command('resync')
    .description(
      'have what the secondaries lack copied now, without waiting for the next try; also where a link waits to be told',
    )
    .argument('<group>', 'a group of this node', groupArgument)
    .option('--link <name>', 'only this one (default: all)', linkNameArgument)
    .option('--full', 'everything is copied again, whatever the secondary has')
    .option('--plan', 'only say what would be copied');
  withNodeFlags(command).action((group: string, flags: ResyncFlags) =>
    withNode(flags, async (client) => {
      const links = chosen(await client.links(group), group, flags.link);
      const { volumes } = await client.group(group);
      const all = volumes.reduce((sum, { totalRegions }) => sum + totalRegions, 0);
      for (const link of links) {
        const regions = flags.full === true ? all : link.dcmRegions;
        const what = `${regions} regions, at most ${formatSize(regions * (volumes[0]?.regionSize ?? 0))}`;
        const isStopped = link.state === 'paused' || link.state === 'detached';
        if (flags.plan === true) output.line(`link ${link.name} would copy ${what}`);
        // Of all links, one that is stopped keeps none of the others back.
        else if (isStopped && flags.link === undefined)
          output.line(`link ${link.name} is ${link.state}, and is left out: resume it first`);
        else {
          const { state, reason } = await client.resyncLink(group, link.name, flags.full === true);
          const why = reason === null ? '' : `: ${reason}`;
          const isConnected = state === 'resync' || state === 'streaming';
          if (isConnected) output.line(`link ${link.name} copies ${what}`);
          else output.line(`link ${link.name} is not connected${why}; it is tried now, and copies ${what}`);
        }
      }
    }),
  );
}

/** The link of that name, or all. Throws `not-found`. */
export function chosen(
  links: readonly LinkStatus[],
  group: string,
  name: string | undefined,
): readonly LinkStatus[] {
  if (links.length === 0) throw new EngineError('not-found', `${group} has no links`);
  const some = name === undefined ? links : links.filter((link) => link.name === name);
  if (some.length > 0) return some;
  throw new EngineError('not-found', `group ${group} has no link ${JSON.stringify(name)}`);
}
