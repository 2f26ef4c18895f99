/**
 * What a process that sits between the kernel's page cache and a block device should ask of the kernel. Writing back a
 * dirty page of /dev/nbdN needs memory here; if getting that memory waits for the write-back of /dev/nbdN, both wait
 * for ever (docs/kernel-device.md). Everything is best effort: without the rights, things stay as they were.
 */
import { writeFileSync } from 'node:fs';
import koffi from 'koffi';

// include/uapi/linux/prctl.h
const PR_SET_IO_FLUSHER = 57;

// asm-generic/signal.h
const SIGHUP = 1;
const SIGINT = 2;
const SIGTERM = 15;
const SIG_IGN = 1n;

export interface GuardReport {
  /** Memory that this process needs is got without writing back to devices that it serves (PR_SET_IO_FLUSHER). */
  readonly ioFlusher: boolean;
  /** The out-of-memory killer looks elsewhere first (oom_score_adj of -1000). */
  readonly oomProtected: boolean;
}

/** Marks this process, with its threads to come, as one that writes back for the kernel. Needs CAP_SYS_RESOURCE. */
export function guardAgainstMemoryPressure(): GuardReport {
  return { ioFlusher: setIoFlusher(), oomProtected: protectFromOomKiller() };
}

function setIoFlusher(): boolean {
  try {
    const prctl = koffi
      .load(null)
      .func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)');
    return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) === 0;
  } catch {
    return false;
  }
}

function protectFromOomKiller(): boolean {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-1000');
    return true;
  } catch {
    return false;
  }
}

/**
 * Ignores the polite signals, in the kernel. A handler, even an empty one, would not do: a signal that is *handled*
 * interrupts NBD_DO_IT, and the driver then shuts the sockets down.
 */
export function ignoreTerminationSignals(): void {
  const signal = koffi.load(null).func('void *signal(int number, intptr_t handler)');
  for (const number of [SIGHUP, SIGINT, SIGTERM]) signal(number, SIG_IGN);
}
