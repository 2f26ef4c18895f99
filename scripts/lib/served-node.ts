import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type CommandResult, run } from './command.ts';

/** How much of a node's log is kept for an error message. */
const MAX_LOG_TAIL_BYTES = 16 * 1024;

/** Longer than any start or clean stop on an overloaded machine; reaching it is a failure, not a measurement. */
const HANG_MS = 60_000;

export interface ServedNodeOptions {
  /** The state folder; a new temporary one, removed by `stop`, when left out. */
  readonly stateFolder?: string;
  /** Arguments of `serve` besides `--state`. */
  readonly serveArguments?: readonly string[];
  /** The Node.js binary that runs Tidemark; this process's own when left out. */
  readonly nodeBinary?: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * One `tidemark serve` of the built project in a process of its own, with the commands that talk to it.
 *
 * Used by the demo, the benchmarks and the end-to-end tests: they all see what a user sees.
 */
export class ServedNode {
  readonly stateFolder: string;
  /** From spawning to the ready line, in milliseconds. */
  readonly startMs: number;
  readonly readyLine: string;
  readonly #child: ChildProcess;
  readonly #nodeBinary: string;
  readonly #ownsFolder: boolean;
  readonly #log: LogTail;

  private constructor(started: StartedProcess, options: ServedNodeOptions, stateFolder: string) {
    this.stateFolder = stateFolder;
    this.startMs = started.startMs;
    this.readyLine = started.readyLine;
    this.#child = started.child;
    this.#log = started.log;
    this.#nodeBinary = options.nodeBinary ?? process.execPath;
    this.#ownsFolder = options.stateFolder === undefined;
  }

  /** Starts a node and waits for its ready line. Rejects with the end of its log when it exits before that. */
  static async start(options: ServedNodeOptions = {}): Promise<ServedNode> {
    const stateFolder = options.stateFolder ?? (await mkdtemp(join(tmpdir(), 'tidemark-')));
    try {
      return new ServedNode(await startProcess(options, stateFolder), options, stateFolder);
    } catch (error) {
      if (options.stateFolder === undefined) await rm(stateFolder, { recursive: true, force: true });
      throw error;
    }
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error('The node has no process.');
    return pid;
  }

  get socketPath(): string {
    return join(this.stateFolder, 'nbd.sock');
  }

  /** The end of what the node logged. */
  get log(): string {
    return this.#log.text;
  }

  /** The NBD URI of an export on the node's own socket; `exportName` is `GROUP/VOLUME`. */
  uri(exportName: string): string {
    return `nbd+unix:///${exportName}?socket=${this.socketPath}`;
  }

  /** Runs `tidemark ARGUMENTS --state FOLDER` to its end, whatever its status. */
  command(...commandArguments: readonly string[]): Promise<CommandResult> {
    return run(this.#nodeBinary, [mainPath(), ...commandArguments, '--state', this.stateFolder]);
  }

  /** Like `command`, and rejects when it fails. */
  async must(...commandArguments: readonly string[]): Promise<string> {
    const result = await this.command(...commandArguments);
    if (result.status !== 0) {
      throw new Error(`tidemark ${commandArguments.join(' ')}: status ${result.status}: ${result.stderr}`);
    }
    return result.stdout;
  }

  /** Creates a group; `volumes` are `NAME:SIZE[,file=PATH]` as on the command line. */
  async create(group: string, ...volumes: readonly string[]): Promise<void> {
    await this.must('create', group, ...volumes.flatMap((volume) => ['--volume', volume]));
  }

  /** Resident memory of the server process now, in bytes. */
  async residentBytes(): Promise<number> {
    return this.#statusField('VmRSS');
  }

  /** The most memory the server process has had resident since it started, in bytes. */
  async peakResidentBytes(): Promise<number> {
    return this.#statusField('VmHWM');
  }

  /**
   * Stops the node as a user does, by SIGTERM, waits for its end, and removes the folder if it was ours. Gives the exit
   * status; rejects with the end of the log when the node hangs.
   */
  async stop(): Promise<number> {
    await this.#end('SIGTERM');
    if (this.#child.exitCode !== null) return this.#child.exitCode;
    throw new Error(`The node ended by ${this.#child.signalCode} and not by itself: ${this.log}`);
  }

  /** Ends the node as a crash does. The state folder stays when the caller named it. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const ended = once(this.#child, 'exit');
      this.#child.kill(signal);
      const hang = setTimeout(() => this.#child.kill('SIGKILL'), HANG_MS);
      await ended;
      clearTimeout(hang);
    }
    if (this.#ownsFolder) await rm(this.stateFolder, { recursive: true, force: true });
  }

  async #statusField(field: 'VmRSS' | 'VmHWM'): Promise<number> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    const kibibytes = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
    if (kibibytes === undefined) throw new Error(`/proc/${this.pid}/status has no ${field}.`);
    return Number(kibibytes) * 1024;
  }
}

interface StartedProcess {
  readonly child: ChildProcess;
  readonly log: LogTail;
  readonly readyLine: string;
  readonly startMs: number;
}

class LogTail {
  text = '';

  add(chunk: string): void {
    this.text = (this.text + chunk).slice(-MAX_LOG_TAIL_BYTES);
  }
}

function mainPath(): string {
  return join(projectFolder(), 'dist/server/launch.cjs');
}

/** The project's folder, from a source in scripts/lib as well as from its built copy in dist/scripts/lib. */
export function projectFolder(): string {
  const here = import.meta.dirname;
  return here.endsWith('/dist/scripts/lib') ? join(here, '../../..') : join(here, '../..');
}

async function startProcess(options: ServedNodeOptions, stateFolder: string): Promise<StartedProcess> {
  const startedAtMs = performance.now();
  const serve = [mainPath(), 'serve', '--state', stateFolder, ...(options.serveArguments ?? [])];
  // The kernel ends the node when this process dies, however it dies: a test that timed out leaves nothing behind.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', options.nodeBinary ?? process.execPath, ...serve], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
  });
  const log = new LogTail();
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => log.add(chunk));
  const hang = setTimeout(() => child.kill('SIGKILL'), HANG_MS);
  try {
    const readyLine = await firstLine(child, log);
    return { child, log, readyLine, startMs: performance.now() - startedAtMs };
  } finally {
    clearTimeout(hang);
  }
}

function firstLine(child: ChildProcess, log: LogTail): Promise<string> {
  return new Promise((resolve, reject) => {
    const { stdout } = child;
    if (stdout === null) throw new Error('The node was started without a standard output.');
    createInterface({ input: stdout }).once('line', resolve);
    child.once('error', reject);
    child.once('close', (code, signal) => {
      reject(new Error(`tidemark serve ended before it was ready (${signal ?? code}): ${log.text}`));
    });
  });
}
