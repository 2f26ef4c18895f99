/**
 * A helper process, seen from the server: started with one job, speaks JSON lines, ends. The server never makes an nbd
 * ioctl itself (see nbd-ioctl.ts).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type HelperJob, type HelperMessage, parseHelperMessage } from './helper-protocol.ts';

/** Bytes of a helper's standard error that are kept, to be quoted when it dies. */
const MAX_STDERR_BYTES = 4096;

/** Command and leading arguments of a helper. The heap is bounded: a helper moves no data. */
export type HelperCommand = readonly [program: string, ...args: string[]];

export function defaultHelperCommand(): HelperCommand {
  return [
    process.execPath,
    '--max-old-space-size=64',
    fileURLToPath(new URL('./device-helper.js', import.meta.url)),
  ];
}

export interface HelperExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class HelperProcess {
  /** The first message; undefined when the helper ended without one. */
  readonly firstMessage: Promise<HelperMessage | undefined>;
  /** Resolves once the process is gone and everything it said has been read. */
  readonly exited: Promise<HelperExit>;
  readonly #child: ChildProcess;
  #lastMessage: HelperMessage | undefined;
  #stderr = '';
  #ended = false;

  constructor(command: HelperCommand, job: HelperJob) {
    const [program, ...args] = command;
    // A session of its own: an interrupt typed at the server's terminal must not reach the process that holds a mounted
    // device. No environment: nothing in it (NODE_OPTIONS, …) is meant for a helper that may run with root's rights.
    const child = spawn(program, [...args, JSON.stringify(job)], {
      detached: true,
      env: {},
      cwd: '/',
      stdio: [job.job === 'hold' ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.exited = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        this.#ended = true;
        resolve({ code, signal });
      });
      child.once('error', (error) => {
        this.#stderr += error.message;
        if (child.pid === undefined) {
          this.#ended = true;
          resolve({ code: null, signal: null });
        }
      });
    });
    this.firstMessage = new Promise((resolve) => {
      if (child.stdout === null) return;
      createInterface({ input: child.stdout }).on('line', (line) => {
        const message = parseHelperMessage(line);
        if (message === undefined) return;
        this.#lastMessage = message;
        resolve(message);
      });
      this.exited.then(() => resolve(undefined));
    });
    // A helper that is gone cannot be told anything, which its end says better.
    child.stdin?.on('error', () => undefined);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-MAX_STDERR_BYTES);
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** The newest message so far. */
  get lastMessage(): HelperMessage | undefined {
    return this.#lastMessage;
  }

  /** Last line of what it wrote to standard error; empty when it wrote nothing. */
  get complaint(): string {
    return this.#stderr.trim().split('\n').at(-1) ?? '';
  }

  /** Says a line to a helper that listens, and that it was the last one. */
  tell(line: string): void {
    this.#child.stdin?.end(`${line}\n`);
  }

  /** Lets the server exit while this helper still runs. */
  unref(): void {
    this.#child.unref();
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      if (stream !== null && 'unref' in stream && typeof stream.unref === 'function') stream.unref();
    }
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Waits for the end, at most `boundMs`; kills it then. True when it ended by itself. */
  async waitForExit(boundMs: number): Promise<boolean> {
    const ended = await within(this.exited, boundMs);
    if (ended !== undefined) return true;
    this.kill();
    return false;
  }
}

/** The promise's value, or undefined after `boundMs`. */
export async function within<T>(promise: Promise<T>, boundMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), boundMs);
  });
  try {
    return await Promise.race([promise, bound]);
  } finally {
    clearTimeout(timer);
  }
}
