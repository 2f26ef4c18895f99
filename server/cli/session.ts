/** What the commands that talk to a node share: how to find it, and how to part. */
import type { Command } from 'commander';
import { ControlClient, ControlError } from '../control/client.ts';
import { defaultStateFolder, statePaths } from '../state-paths.ts';
import { pathArgument } from './arguments.ts';

export interface NodeFlags {
  readonly state?: string;
  readonly control?: string;
}

/** Where commands write. Tests collect it. */
export interface Output {
  /** One or more lines, without the last line end. */
  line(text: string): void;
  raw(text: string): void;
  /** True when a person looks: screens may be redrawn. */
  readonly isTerminal: boolean;
}

export const standardOutput: Output = {
  line: (text) => process.stdout.write(`${text}\n`),
  raw: (text) => process.stdout.write(text),
  isTerminal: process.stdout.isTTY === true,
};

export function withStateFlag(command: Command): Command {
  return command.option(
    '--state <dir>',
    'state folder of the node (default: $TIDEMARK_STATE, or as docs/configuration.md says)',
    pathArgument,
  );
}

/** Adds `--state` and `--control`, by which a command finds its node. */
export function withNodeFlags(command: Command): Command {
  return withStateFlag(command).option(
    '--control <path>',
    'control socket of the node (default: DIR/control.sock)',
    pathArgument,
  );
}

export function stateFolderOf(flags: NodeFlags): string {
  return statePaths(flags.state ?? defaultStateFolder()).folder;
}

/** Runs `work` with a client of the node, and closes it whatever happens. */
export async function withNode(
  flags: NodeFlags,
  work: (client: ControlClient) => Promise<void>,
): Promise<void> {
  const folder = stateFolderOf(flags);
  const client = new ControlClient(flags.control ?? statePaths(folder).controlSocket);
  try {
    await work(client);
  } catch (error) {
    if (error instanceof ControlError && error.code === 'no-node' && flags.control === undefined) {
      throw new ControlError(
        error.code,
        error.status,
        error.message.replace(/tidemark serve$/, `tidemark serve --state ${folder}`),
      );
    }
    throw error;
  } finally {
    client.close();
  }
}
