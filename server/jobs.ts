import type { ReplyTo } from '../protocol/reply.ts';
import type { Replies } from './replies.ts';

/** Who is told about jobs. */
export interface JobObserver {
  /** One has ended, and its reply is written, unless the session has ended before. */
  ended(): void;
  /** Answering one threw. */
  bug(error: unknown): void;
}

/**
 * The requests of one session that wait for something: a disk, a flush. Each ends in exactly one reply, or in none when the
 * session has ended meanwhile.
 */
export class Jobs {
  readonly #replies: Replies;
  readonly #observer: JobObserver;
  #count = 0;
  #ownedBytes = 0;
  #closed = false;

  constructor(replies: Replies, observer: JobObserver) {
    this.#replies = replies;
    this.#observer = observer;
  }

  /** Jobs under way. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of memory that they hold, for requests that hold no permits. */
  get ownedBytes(): number {
    return this.#ownedBytes;
  }

  /** Replies are dropped from now on. */
  close(): void {
    this.#closed = true;
  }

  /**
   * Waits for `work` and answers with what `succeeded` writes, or with the error. `ownedBytes`: memory that the job holds till its
   * end. `dropped` is called when `succeeded` is not.
   */
  start(
    to: ReplyTo,
    ownedBytes: number,
    work: Promise<void>,
    succeeded: (to: ReplyTo) => void,
    dropped?: () => void,
  ): void {
    this.#count += 1;
    this.#ownedBytes += ownedBytes;
    const ended = (answer: () => void): void => {
      this.#count -= 1;
      this.#ownedBytes -= ownedBytes;
      answer();
      this.#observer.ended();
    };
    const settled = work.then(
      () => ended(() => (this.#closed ? dropped?.() : succeeded(to))),
      (error: unknown) =>
        ended(() => {
          dropped?.();
          if (!this.#closed) this.#replies.failure(to, error);
        }),
    );
    settled.catch((error: unknown) => this.#observer.bug(error));
  }
}
