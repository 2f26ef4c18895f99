import { type Command, Option } from 'commander';
import { LOG_LEVELS, type LogLevel } from '../log-levels.ts';
import { listenArgument, pathArgument, uriArgument } from './arguments.ts';
import type { Finish } from './program.ts';
import { type Output, withStateFlag } from './session.ts';

export interface ServeFlags {
  readonly state?: string;
  readonly listen?: string[];
  readonly control?: string;
  readonly config?: string;
  readonly advertise?: string;
  readonly logLevel?: LogLevel;
  readonly adopt?: boolean;
}

export function addServe(program: Command, output: Output, finish: Finish): void {
  const command = program
    .command('serve')
    .description('run a node: serve its volumes until it is told to stop');
  withStateFlag(command)
    .option(
      '--listen <uri>',
      'NBD URI to listen at; may be given several times (default: DIR/nbd.sock)',
      listenArgument,
    )
    .option('--control <path>', 'control socket (default: DIR/control.sock)', pathArgument)
    .option('--config <file>', 'settings in TOML; flags win over it', pathArgument)
    .option('--advertise <uri>', 'URI at which other nodes reach this one', uriArgument)
    .addOption(
      new Option('--log-level <level>', 'least level that is logged (default: info)').choices([
        ...LOG_LEVELS,
      ]),
    )
    .option('--adopt', 'take over a state folder that another machine used')
    .action(async (flags: ServeFlags) => {
      // Loaded here, because no other command needs the server and all that it stands on.
      const { serve } = await import('./serve-node.ts');
      finish(await serve(flags, output));
    });
}
