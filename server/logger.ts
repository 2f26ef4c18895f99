/**
 * The log: JSON lines on stderr. Standard output belongs to the answer of a command.
 */
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import type { LogLevel } from './log-levels.ts';

export type Logger = PinoLogger;

/**
 * Bytes of log lines that wait for a reader of stderr. What comes beyond is dropped: a stuck terminal or a full pipe
 * must not stop the server, nor grow it.
 */
const MAX_WAITING_LOG_BYTES = 4 * 1024 * 1024;

export interface LogOutput {
  readonly logger: Logger;
  /** Writes what waits, now. For the last moments of the process. */
  flush(): void;
}

/** The logger of a process: asynchronous, to stderr, bounded. */
export function openLog(level: LogLevel): LogOutput {
  const destination = pino.destination({
    fd: 2,
    sync: false,
    minLength: 0,
    maxLength: MAX_WAITING_LOG_BYTES,
  });
  return {
    logger: createLogger(level, destination),
    flush: () => {
      try {
        destination.flushSync();
      } catch {
        // stderr is gone or full: there is nobody left to tell.
      }
    },
  };
}

/** A logger onto any stream; tests collect lines with it. */
export function createLogger(level: LogLevel, destination: DestinationStream): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
}

/** A logger that says nothing. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
