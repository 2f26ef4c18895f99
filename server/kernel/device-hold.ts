/**
 * Holding a kernel device while the data below it changes (rule T4), in a helper process: flushing may wait for this server, and so may the
 * ioctl that drops the caches.
 */
import { EngineError } from '../../engine/errors.ts';
import { type HelperCommand, HelperProcess, within } from './helper-process.ts';

/** Longest wait for dirty pages to be written, in milliseconds: gigabytes may have to be. */
const FLUSH_BOUND_MS = 600_000;
/** Longest wait for clean pages to be dropped, in milliseconds. */
const DROP_BOUND_MS = 60_000;

/** A device whose dirty pages are written, and that nobody can mount. */
export interface DeviceHold {
  /** `/dev/nbd0` */
  readonly device: string;
  /** Drops the device's clean pages and lets go of it. Rejects with `unavailable` when the pages may still be there. */
  dropCaches(): Promise<void>;
}

/**
 * Claims the device, as a mount would, and writes its dirty pages. Throws `in-use` when it is claimed by somebody else (a mount of any
 * namespace, swap, device mapper), `unavailable` when the pages could not be written.
 */
export async function holdDevice(command: HelperCommand, device: string): Promise<DeviceHold> {
  const helper = new HelperProcess(command, { job: 'hold', device });
  const answer = await within(helper.firstMessage, FLUSH_BOUND_MS);
  if (answer?.event !== 'held') {
    helper.kill();
    if (answer?.event === 'failed' && answer.kind === 'busy')
      throw new EngineError('in-use', `${device} is in use: unmount it first, or use --force`);
    throw failure(helper, `${device} could not be flushed`);
  }
  return {
    device,
    dropCaches: async () => {
      helper.tell('drop');
      const ended = await helper.waitForExit(DROP_BOUND_MS);
      if (!ended || helper.lastMessage?.event !== 'done')
        throw failure(helper, `the caches of ${device} could not be dropped`);
    },
  };
}

/** Writes the dirty pages of a device that may be mounted. Throws `unavailable`. */
export async function syncDevice(command: HelperCommand, device: string): Promise<void> {
  const helper = new HelperProcess(command, { job: 'sync', device });
  await helper.waitForExit(FLUSH_BOUND_MS);
  if (helper.lastMessage?.event !== 'done') throw failure(helper, `${device} could not be flushed`);
}

function failure(helper: HelperProcess, what: string): EngineError {
  const last = helper.lastMessage;
  const why = last?.event === 'failed' ? last.message : helper.complaint || 'no answer in time';
  return new EngineError('unavailable', `${what}: ${why}`, { errno: 'EIO' });
}
