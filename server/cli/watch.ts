/** Doing something again and again until the user has seen enough. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlError } from '../control/client.ts';

/** What the user interrupts (^C) ends well, instead of being killed: its signal is aborted then. */
export async function interruptible(work: (interrupted: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController();
  const interrupt = (): void => controller.abort();
  process.once('SIGINT', interrupt);
  try {
    await work(controller.signal);
  } finally {
    process.removeListener('SIGINT', interrupt);
  }
}

/** Shows, waits, and shows again, until it is interrupted. Throws what `show` throws; where the node has gone meanwhile, it says so. */
export async function watch(
  show: () => Promise<void>,
  periodMs: number,
  interrupted: AbortSignal,
): Promise<void> {
  for (let times = 0; !interrupted.aborted; times++) {
    try {
      await show();
    } catch (error) {
      if (interrupted.aborted) return;
      if (times === 0 || !(error instanceof ControlError) || error.code !== 'no-node') throw error;
      throw new ControlError(error.code, error.status, `the node is gone: ${error.message}`);
    }
    await sleep(periodMs, undefined, { signal: interrupted }).catch(() => {});
  }
}
