/** The command line: one file a command, put together here. */
import { Command, CommanderError } from 'commander';
import { EngineError } from '../../engine/errors.ts';
import { ControlError } from '../control/client.ts';
import { oneLine } from '../control/refusal.ts';
import { tidemarkVersion } from '../version.ts';
import { addAttach } from './attach.ts';
import { addCheck } from './check.ts';
import { addCreate } from './create.ts';
import { addDelete } from './delete.ts';
import { addDetach } from './detach.ts';
import { addDiff } from './diff.ts';
import { addDoctor } from './doctor.ts';
import { addEvents } from './events.ts';
import { DONE, REFUSED, WRONG_USAGE } from './exit-status.ts';
import { addFreeze } from './freeze.ts';
import { addImport } from './import.ts';
import { addLink } from './link.ts';
import { addReplica } from './replica.ts';
import { addRestore } from './restore.ts';
import { addResync } from './resync.ts';
import { addServe } from './serve.ts';
import { type Output, standardOutput } from './session.ts';
import { addSnapshot } from './snapshot.ts';
import { addStatus } from './status.ts';

/** How a command ends with another status than `DONE`: commander's actions return nothing. */
export type Finish = (status: number) => void;

export interface CliStreams {
  readonly output: Output;
  readonly complain: (text: string) => void;
}

const STANDARD_STREAMS: CliStreams = {
  output: standardOutput,
  complain: (text) => process.stderr.write(text),
};

/** Runs one command to its end and returns its exit status. */
export async function runCli(
  args: readonly string[],
  streams: CliStreams = STANDARD_STREAMS,
): Promise<number> {
  let status = DONE;
  const program = buildProgram(streams, (value) => {
    status = value;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return status;
  } catch (error) {
    // Commander has printed its own; help and version come this way too, with 0.
    if (error instanceof CommanderError) return error.exitCode === 0 ? DONE : WRONG_USAGE;
    streams.complain(`tidemark: ${explain(error)}\n`);
    return REFUSED;
  }
}

function buildProgram(streams: CliStreams, finish: Finish): Command {
  const program = new Command('tidemark')
    .description('A user-space block server: volumes over NBD.')
    .version(tidemarkVersion())
    .configureOutput({
      writeOut: (text) => streams.output.raw(text),
      writeErr: streams.complain,
      outputError: (text, write) => write(`tidemark: ${oneLine(text.replace(/^error: /, '').trim())}\n`),
    })
    .exitOverride();
  const commands = [
    addServe,
    addCreate,
    addDelete,
    addStatus,
    addSnapshot,
    addRestore,
    addLink,
    addResync,
    addReplica,
    addFreeze,
    addDiff,
    addImport,
    addAttach,
    addDetach,
    addEvents,
    addCheck,
    addDoctor,
  ];
  for (const add of commands) add(program, streams.output, finish);
  return program;
}

/** Refusals speak for themselves; anything else is a fault of ours, and says what it was. */
function explain(error: unknown): string {
  if (error instanceof EngineError || error instanceof ControlError) return oneLine(error.message);
  return error instanceof Error ? `internal error: ${oneLine(error.stack ?? error.message)}` : String(error);
}
