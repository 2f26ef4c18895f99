/**
 * Errors of the engine. Each has a stable `code`; the message says what and why, in one line, and what to do
 * where something can be done. A wrong caller is not an error but a bug: see `assert`.
 */

export type EngineErrorCode =
  /** The request is malformed: a name, a size, a combination that can never be right. */
  | 'invalid'
  /** The thing named does not exist. */
  | 'not-found'
  /** The thing to be made exists already. */
  | 'exists'
  /** The thing is in use, so that what was asked cannot be done now. */
  | 'in-use'
  /** What is on disk is not what was written there. */
  | 'corrupt'
  /** A disk refused: see `cause`, an errno name such as `ENOSPC` is in `errno`. */
  | 'disk'
  /** The volume has failed, or is closed, and takes no more requests. */
  | 'unavailable'
  /** Not possible here (this kernel, this filesystem). */
  | 'unsupported';

export class EngineError extends Error {
  readonly code: EngineErrorCode;
  /** The errno name (`ENOSPC`, `EIO`, …) when an operating system call is the cause. */
  readonly errno: string | undefined;

  constructor(code: EngineErrorCode, message: string, options: { errno?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'EngineError';
    this.code = code;
    this.errno = options.errno;
  }
}

/** The errno name of an error thrown by Node, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof EngineError) return error.errno;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/** Throws when a caller broke the contract of a function. Never used on anything that came from outside. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`bug: ${what}`);
}
