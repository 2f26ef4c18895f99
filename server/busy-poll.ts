import { availableParallelism } from 'node:os';

/** How long the loop goes on looking after the last bytes came, in milliseconds: about what waking a sleeping thread costs twice over. */
export const BUSY_POLL_MS = 0.1;

/**
 * Keeps the event loop from sleeping for a moment after bytes have come. A client with one request in flight sends its next as
 * soon as it has the reply; a loop that has gone to sleep meanwhile has to be woken, which costs more than serving the request
 * does. The price is that moment of one core for each time that the clients fall silent; with a single core, which the
 * client needs, nothing is gained, and it does not look.
 */
export class BusyPoll {
  readonly #nowMs: () => number;
  readonly #nextTurn: (run: () => void) => void;
  readonly #pays: boolean;
  #untilMs = 0;
  #looking = false;
  readonly #look = (): void => {
    this.#looking = this.#nowMs() < this.#untilMs;
    if (this.#looking) this.#nextTurn(this.#look);
  };

  constructor(
    nowMs: () => number = () => performance.now(),
    nextTurn: (run: () => void) => void = (run) => void setImmediate(run),
    cores: number = availableParallelism(),
  ) {
    this.#nowMs = nowMs;
    this.#nextTurn = nextTurn;
    this.#pays = cores > 1;
  }

  /** Bytes have come. */
  awake(): void {
    if (!this.#pays) return;
    this.#untilMs = this.#nowMs() + BUSY_POLL_MS;
    if (this.#looking) return;
    this.#looking = true;
    this.#nextTurn(this.#look);
  }
}
