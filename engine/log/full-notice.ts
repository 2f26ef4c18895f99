/**
 * Tells that writers wait because the log is full, and that it has room again.
 *
 * Where writers bring more than can be applied, a log hovers about full, and a small one is filled and emptied many times a second: there is some room
 * all the time, and none a moment later. So it is told of room once nobody has waited for a while, and once there is much.
 */
import type { Timer } from '../clock.ts';
import type { GroupState } from '../group-state.ts';

/** Nobody has waited for so long. */
const QUIET_MS = 1000;
/** Much: so large a share of the ring. */
const ROOM_SHARE = 1 / 8;

export class FullNotice {
  readonly #state: GroupState;
  /** Told, and not yet that there is room. */
  #full = false;
  #quiet: Timer | undefined;
  #stopped = false;

  constructor(state: GroupState) {
    this.#state = state;
  }

  /** A writer waits: the log may be why. */
  waits(): void {
    const { log } = this.#state;
    if (!log.isFull) return;
    this.#quiet?.cancel();
    this.#quiet = undefined;
    if (this.#full) return;
    this.#full = true;
    const message = 'the log is full: writers wait until records are applied';
    this.#state.emit({ type: 'log.full', message, data: { usedBytes: log.usedBytes } });
  }

  /** Nobody waits any more, or there is more room and nobody waits. */
  eased(): void {
    if (!this.#full || this.#stopped) return;
    this.#quiet ??= this.#state.clock.after(QUIET_MS, () => {
      this.#quiet = undefined;
      this.#tellRoom();
    });
  }

  /** Where there is too little, this comes again when space is freed. */
  #tellRoom(): void {
    const { log } = this.#state;
    if (log.roomBytes < log.capacityBytes * ROOM_SHARE) return;
    this.#full = false;
    this.#state.emit({ type: 'log.room', message: 'the log has room again' });
  }

  /** It is told of no room from here on. */
  stop(): void {
    this.#stopped = true;
    this.#quiet?.cancel();
  }
}
