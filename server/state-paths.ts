/** Where a node keeps its state, and what lies where in it. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

/** Where things are in a state folder. */
export interface StatePaths {
  readonly folder: string;
  readonly nodeFile: string;
  readonly lock: string;
  readonly groups: string;
  readonly controlSocket: string;
  readonly nbdSocket: string;
}

export function statePaths(folder: string): StatePaths {
  const absolute = resolve(folder);
  return {
    folder: absolute,
    nodeFile: join(absolute, 'node.json'),
    lock: join(absolute, 'lock'),
    groups: join(absolute, 'groups'),
    controlSocket: join(absolute, 'control.sock'),
    nbdSocket: join(absolute, 'nbd.sock'),
  };
}

/** The folder of a command that was not told one: `$TIDEMARK_STATE`, else by who runs it. */
export function defaultStateFolder(
  environment: Readonly<Record<string, string | undefined>> = process.env,
  userId: number | undefined = process.geteuid?.(),
): string {
  const named = environment['TIDEMARK_STATE'];
  if (named !== undefined && named !== '') return named;
  if (userId === 0) return '/var/lib/tidemark';
  const base = environment['XDG_STATE_HOME'];
  // The XDG specification: a path that is not absolute is to be ignored.
  if (base?.startsWith('/')) return join(base, 'tidemark');
  return join(environment['HOME'] || homedir(), '.local', 'state', 'tidemark');
}
