/** Whoever found no room in a log is told when to try again: a sync has ended, space was freed, or a disk that held up writers takes them again. */
import type { Clock } from '../clock.ts';
import type { Disk } from '../disk/disk.ts';

/** Between two looks at a disk that holds up writers. */
const PACE_DELAY_MS = 5;

export interface RoomHooks {
  /** A quick write, and a sync. */
  readonly writeAndSync: () => Promise<void>;
  /** What was refused may be tried again. */
  readonly room: () => void;
}

export class LogRoom {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #hooks: RoomHooks;
  #wanted = false;
  #pacing = false;
  #stopped = false;

  constructor(disk: Disk, clock: Clock, hooks: RoomHooks) {
    this.#disk = disk;
    this.#clock = clock;
    this.#hooks = hooks;
  }

  /** Something was refused for want of it. */
  want(): void {
    this.#wanted = true;
  }

  /** There may be some. */
  tell(): void {
    if (!this.#wanted) return;
    this.#wanted = false;
    this.#hooks.room();
  }

  /** Asks the disk until it takes writes inline again: a quick write on the pool, and a sync, end a hold-up. */
  regainPace(): void {
    if (this.#pacing) return;
    this.#pacing = true;
    this.#paceRounds()
      .catch(() => {})
      .finally(() => {
        this.#pacing = false;
        this.tell();
      });
  }

  async #paceRounds(): Promise<void> {
    while (!this.#disk.mayWriteInline && !this.#stopped) {
      await this.#hooks.writeAndSync();
      if (this.#disk.mayWriteInline) return;
      await new Promise<void>((resolve) => {
        this.#clock.after(PACE_DELAY_MS, resolve);
      });
    }
  }

  /** The disk is asked no more. */
  stop(): void {
    this.#stopped = true;
  }
}
