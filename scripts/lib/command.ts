import { spawn } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

/** More than any tool we run prints; what exceeds it is cut, so that a tool gone wild cannot fill memory. */
const MAX_OUTPUT_BYTES = 8 * 1024 * 1024;

export interface CommandResult {
  /** Exit status; 128 + signal number is not imitated: a command ended by a signal has status -1. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string;
  readonly cwd?: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/** Runs a program to its end and gives what it said. Rejects only when it cannot be started. */
export function run(
  program: string,
  programArguments: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, programArguments, {
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      cwd: options.cwd,
      env: { ...process.env, ...options.environment },
    });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      if (stdout.length < MAX_OUTPUT_BYTES) stdout += chunk;
    });
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      if (stderr.length < MAX_OUTPUT_BYTES) stderr += chunk;
    });
    child.once('error', reject);
    child.once('close', (code) => resolve({ status: code ?? -1, stdout, stderr }));
    // A program that ends without reading its input breaks the pipe; its status tells the story.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(options.input);
  });
}

/** Runs a program that has to succeed; gives its standard output. */
export async function mustRun(
  program: string,
  programArguments: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const result = await run(program, programArguments, options);
  if (result.status !== 0) {
    const said = result.stderr.trim() || result.stdout.trim();
    throw new Error(`${program} ${programArguments.join(' ')}: status ${result.status}: ${said}`);
  }
  return result.stdout;
}

/** Where a program is found in PATH, or undefined. */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const candidate = join(folder, name);
    try {
      await access(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not in this folder; the next may have it.
    }
  }
  return undefined;
}
