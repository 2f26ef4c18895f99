import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { explainErrno } from '../../engine/disk/disk-error.ts';
import { EngineError, errnoOf } from '../../engine/errors.ts';
import type { LinkSetRequest } from '../control/link-schemas.ts';
import { parseSecret } from '../group-secrets.ts';
import {
  groupArgument,
  linkNameArgument,
  pathArgument,
  secondsArgument,
  sizeArgument,
  uriArgument,
} from './arguments.ts';
import { formatLinks } from './link-tables.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface SettingFlags extends NodeFlags {
  readonly mode?: 'async' | 'memory' | 'sync';
  readonly onLost?: 'go-on' | 'block';
  readonly onFull?: 'dcm' | 'block' | 'detach';
  readonly resync?: 'auto' | 'manual';
  readonly orderedOnly?: boolean;
  readonly limit?: number;
  readonly limitSeconds?: number;
  readonly rate?: number;
  readonly secretFile?: string;
}

interface AddFlags extends SettingFlags {
  readonly name?: string;
  readonly assumeEqual?: boolean;
}

interface SetFlags extends SettingFlags {
  readonly uri?: string;
}

export function addLink(program: Command, output: Output): void {
  const link = program.command('link').description('replicate a group to other nodes');
  addAdd(link, output);
  addList(link, output);
  addSet(link, output);
  addRemove(link, output);
  addSteering(link, output);
}

function withSettings(command: Command): Command {
  return command
    .addOption(
      new Option('--mode <mode>', 'when a write is acknowledged (default: async)').choices([
        'async',
        'memory',
        'sync',
      ]),
    )
    .addOption(
      new Option(
        '--on-lost <policy>',
        'of a memory or sync link that is not streaming: writers go on, or wait (default: go-on)',
      ).choices(['go-on', 'block']),
    )
    .addOption(
      new Option(
        '--on-full <policy>',
        'when the log kept for it reaches its limit: mark regions, hold the writers, or detach (default: dcm)',
      ).choices(['dcm', 'block', 'detach']),
    )
    .addOption(
      new Option(
        '--resync <policy>',
        'regions that the secondary lacks are copied by themselves, or when you say so: tidemark resync (default: auto)',
      ).choices(['auto', 'manual']),
    )
    .option(
      '--ordered-only',
      'restores that would have regions copied out of order are refused, unless forced',
    )
    .option('--no-ordered-only', 'they are not')
    .option('--limit <size>', 'log kept for it at most (default: half of the ring)', sizeArgument)
    .option('--limit-seconds <time>', 'and for so long at most, such as 90s, 15m or 2h', secondsArgument)
    .option('--rate <size>', 'what a resync moves a second at most (default: no limit)', sizeArgument)
    .option(
      '--secret-file <path>',
      'the secret of the group there, needed over TCP: a copy of DIR/groups/GROUP/secret of that node',
      pathArgument,
    );
}

async function settingsOf(flags: SettingFlags): Promise<LinkSetRequest> {
  const { mode, onLost, onFull, resync, orderedOnly, limit, limitSeconds, rate, secretFile } = flags;
  return {
    ...(mode === undefined ? {} : { mode }),
    ...(onLost === undefined ? {} : { onLost }),
    ...(onFull === undefined ? {} : { onFull }),
    ...(resync === undefined ? {} : { resync }),
    ...(orderedOnly === undefined ? {} : { orderedOnly }),
    ...(limit === undefined ? {} : { limitBytes: limit }),
    ...(limitSeconds === undefined ? {} : { limitSeconds }),
    ...(rate === undefined ? {} : { rateBytesPerSecond: rate }),
    ...(secretFile === undefined ? {} : { secret: await secretIn(secretFile) }),
  };
}

/** Read here, with the rights of who gives the command. */
async function secretIn(path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    throw new EngineError('invalid', `${path}: ${errno === undefined ? String(error) : explainErrno(errno)}`);
  }
  return parseSecret(path, text).toString('hex');
}

function addAdd(link: Command, output: Output): void {
  const command = link
    .command('add')
    .description('replicate a group to a replica of it on another node')
    .argument('<group>', 'a group of this node', groupArgument)
    .argument(
      '<uri>',
      'NBD URI of the other node; its export, if any, is the name of the group there',
      uriArgument,
    )
    .option('--name <name>', 'of the link (default: link-1, …)', linkNameArgument)
    .option('--assume-equal', 'the volumes there have the same content already: nothing is copied at first');
  withNodeFlags(withSettings(command)).action((group: string, uri: string, flags: AddFlags) =>
    withNode(flags, async (client) => {
      const added = await client.addLink(group, {
        uri,
        ...(flags.name === undefined ? {} : { name: flags.name }),
        ...(flags.assumeEqual === true ? { assumeEqual: true } : {}),
        ...(await settingsOf(flags)),
      });
      output.line(`added link ${added.name} from ${group} to ${added.uri}`);
    }),
  );
}

function addList(link: Command, output: Output): void {
  const command = link
    .command('list')
    .description('links of a group')
    .argument('<group>', 'its name', groupArgument)
    .option('--json', 'as JSON');
  withNodeFlags(command).action((group: string, flags: NodeFlags & { readonly json?: boolean }) =>
    withNode(flags, async (client) => {
      const links = await client.links(group);
      if (flags.json === true) output.line(JSON.stringify({ links }, null, 2));
      else output.line(links.length === 0 ? `${group} has no links` : formatLinks(group, links));
    }),
  );
}

function addSet(link: Command, output: Output): void {
  const command = link
    .command('set')
    .description('change the settings of a link')
    .argument('<group>', 'its group', groupArgument)
    .argument('<link>', 'its name', linkNameArgument)
    .option('--uri <uri>', 'where the other node is now', uriArgument);
  withNodeFlags(withSettings(command)).action((group: string, name: string, flags: SetFlags) =>
    withNode(flags, async (client) => {
      const changes = {
        ...(flags.uri === undefined ? {} : { uri: flags.uri }),
        ...(await settingsOf(flags)),
      };
      if (Object.keys(changes).length === 0) command.error('nothing to set: name a setting');
      await client.setLink(group, name, changes);
      output.line(`changed link ${name} of ${group}`);
    }),
  );
}

function addRemove(link: Command, output: Output): void {
  const command = link
    .command('remove')
    .description('remove a link; the secondary keeps what it has')
    .argument('<group>', 'its group', groupArgument)
    .argument('<link>', 'its name', linkNameArgument);
  withNodeFlags(command).action((group: string, name: string, flags: NodeFlags) =>
    withNode(flags, async (client) => {
      await client.removeLink(group, name);
      output.line(`removed link ${name} of ${group}`);
    }),
  );
}

const STEERING = {
  pause: ['stop sending; the log is kept up to the limit of the link, then regions are marked', 'paused'],
  resume: ['go on sending', 'resumed'],
  detach: ['stop sending and keep no log: regions are marked until it is resumed', 'detached'],
} as const;

function addSteering(link: Command, output: Output): void {
  for (const what of ['pause', 'resume', 'detach'] as const) {
    const [description, done] = STEERING[what];
    const command = link
      .command(what)
      .description(description)
      .argument('<group>', 'its group', groupArgument)
      .argument('<link>', 'its name', linkNameArgument);
    withNodeFlags(command).action((group: string, name: string, flags: NodeFlags) =>
      withNode(flags, async (client) => {
        await client.steerLink(group, name, what);
        output.line(`${done} link ${name} of ${group}`);
      }),
    );
  }
}
