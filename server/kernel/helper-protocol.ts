/**
 * What the server and its device helpers say to each other: the job as one JSON argument, the answers as JSON lines on
 * the helper's standard output.
 */

/** Logical block sizes that the driver takes, in bytes. */
export const DEVICE_BLOCK_SIZES = [512, 1024, 2048, 4096] as const;
export type DeviceBlockBytes = (typeof DEVICE_BLOCK_SIZES)[number];

/** Connects and serves a device until it is disconnected: the long-lived helper. */
export interface ServeJob {
  readonly job: 'serve';
  /** Tried in order, until one is not busy. */
  readonly devices: readonly string[];
  /** NBD URI with the export's name. */
  readonly uri: string;
  readonly connections: number;
  readonly readOnly: boolean;
  /** Seconds until the driver gives up on a request; 0: never. */
  readonly timeoutSeconds: number;
  readonly blockBytes?: DeviceBlockBytes;
}

/** Opens the device once, so that the kernel reads its partition table. */
export interface ProbeJob {
  readonly job: 'probe';
  readonly device: string;
}

/** Flushes and disconnects a device. Without `force` only if nothing else holds it. */
export interface DisconnectJob {
  readonly job: 'disconnect';
  readonly device: string;
  readonly force: boolean;
}

/** Claims a device, flushes it, and says so; drops its clean pages when it is told `drop` on standard input, and ends when that ends. */
export interface HoldJob {
  readonly job: 'hold';
  readonly device: string;
}

/** Flushes a device, whoever uses it. */
export interface SyncJob {
  readonly job: 'sync';
  readonly device: string;
}

export type HelperJob = ServeJob | ProbeJob | DisconnectJob | HoldJob | SyncJob;

/** Why a helper could not do its job. `busy` sends the search for a free device on to the next one. */
export type HelperFailureKind = 'busy' | 'rights' | 'no-device' | 'refused' | 'flush' | 'failed';

export type HelperMessage =
  /** Everything is set up; the next call is NBD_DO_IT. */
  | {
      readonly event: 'starting';
      readonly device: string;
      readonly readOnly: boolean;
      readonly sizeBytes: number;
      readonly blockBytes: number;
      readonly transmissionFlags: number;
      readonly ioFlusher: boolean;
    }
  /** The device is claimed, and its dirty pages are written. */
  | { readonly event: 'held' }
  | { readonly event: 'done'; readonly detail?: string }
  | { readonly event: 'failed'; readonly kind: HelperFailureKind; readonly message: string };

const JOBS: ReadonlySet<string> = new Set<HelperJob['job']>(['serve', 'probe', 'disconnect', 'hold', 'sync']);
const EVENTS: ReadonlySet<string> = new Set<HelperMessage['event']>(['starting', 'held', 'done', 'failed']);

/** Reads the job that a server of the same version wrote; throws when a person wrote something else. */
export function parseHelperJob(argument: string): HelperJob {
  const job: unknown = JSON.parse(argument);
  const kind = typeof job === 'object' && job !== null && 'job' in job ? job.job : undefined;
  if (typeof kind !== 'string' || !JOBS.has(kind)) throw new Error('not a job of a device helper');
  return job as HelperJob;
}

/** Reads one line of a helper; undefined for anything that is not a message (a stray line of a library). */
export function parseHelperMessage(line: string): HelperMessage | undefined {
  try {
    const message: unknown = JSON.parse(line);
    if (typeof message !== 'object' || message === null || !('event' in message)) return undefined;
    const event = (message as { event: unknown }).event;
    return typeof event === 'string' && EVENTS.has(event) ? (message as HelperMessage) : undefined;
  } catch {
    return undefined;
  }
}
