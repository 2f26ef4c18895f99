import type { DiskExtent } from './disk/disk.ts';

/** How a range is to be zeroed. */
export interface ZeroOptions {
  /** Its space may be given back; else it stays allocated. */
  readonly mayPunch: boolean;
  /** Reject with errno `ENOTSUP`, having changed nothing, where it would come to writing zeroes. */
  readonly fast: boolean;
}

/**
 * What an export serves: a volume, or a volume as a snapshot shows it.
 *
 * The `try` calls are the hot path: no promise. They return false, having done nothing that matters, when something has to be waited for; the
 * caller then takes the promise of the same name. Ranges lie inside the device; anything else is a bug of the caller. Requests that overlap in time
 * and place land in any order, as on any disk; others never disturb each other.
 *
 * Errors are `EngineError`s: `disk` with an errno for this request alone; `unavailable` with errno `EIO` for every write and flush after the device
 * failed, with `ESHUTDOWN` for everything once it closes. The `try` calls throw them.
 */
export interface BlockDevice {
  readonly sizeBytes: number;
  readonly regionBytes: number;
  readonly readOnly: boolean;
  /** Why it takes no more writes and flushes, or undefined. Reads go on. */
  readonly failure: string | undefined;

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean;
  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void>;

  /** The bytes are copied, or written, before it returns. It is not yet safe to acknowledge: see `settle`. */
  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean;
  /** `source` is the caller's again when the promise settles; then the write may be acknowledged, if nothing `holdsReplies`. */
  write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void>;

  /**
   * Puts what `tryWrite` took since the last call where a killed process cannot lose it. To be called before the acknowledgement of any of it
   * leaves: one call for all that one receive event brought. Throws `unavailable` when that is not possible; none of it may be acknowledged then.
   */
  settle(): void;

  /**
   * Whether links want more than that something is settled, or durable, here (rule K4): then no write, zeroes or flush may be acknowledged before `acknowledged`, called
   * when its own promise has resolved, does so too.
   */
  readonly holdsReplies: boolean;
  /** Settles, and resolves when whatever was taken before the call may be acknowledged. Rejects with `unavailable` when it never may. */
  acknowledged(): Promise<void>;

  /** Makes durable whatever was acknowledged before the call, on any connection. */
  flush(): Promise<void>;
  /** The range reads as zeroes afterwards, and its space is given back where the disk can (rule L11). */
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  writeZeroes(offsetBytes: number, lengthBytes: number, options: ZeroOptions): Promise<void>;
  /** Asks for the range to be in the cache soon. Advisory. */
  prefetch(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Extents from the start of the range, as `Disk.extents`: they may end before the range does. */
  allocation(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]>;
}
