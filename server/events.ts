/**
 * What happened on this node, in order: an in-memory ring that operators read with `tidemark events` and programs as
 * server-sent events. It is news, not a record: it starts empty with the process. A reader keeps a cursor (the id of the
 * last event it has seen), so that a slow reader costs nothing but a gap, which it can see.
 */

/** Events kept. A reader that falls further behind finds a gap in the ids. At about 300 bytes each: 1.2 MB at most. */
export const MAX_EVENTS_KEPT = 4096;

export interface NewEvent {
  /** `thing.what-happened`, stable: programs match on it (`session.opened`, `volume.failed`, …). */
  readonly type: string;
  /** One line for people. */
  readonly message: string;
  /** The group it is about, when it is about one. */
  readonly group?: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

export interface NodeEvent extends NewEvent {
  /** Counts up by one from 1, within one run of the node. */
  readonly id: number;
  /** ISO 8601, UTC. */
  readonly time: string;
}

export class EventLog {
  readonly #nowMs: () => number;
  readonly #capacity: number;
  /** The event with id `n` is at `(n - 1) % capacity`, while it is kept. */
  readonly #ring: NodeEvent[] = [];
  readonly #subscribers = new Set<(event: NodeEvent) => void>();
  #lastId = 0;

  /** `nowMs`: wall clock in milliseconds. */
  constructor(nowMs: () => number = Date.now, capacity: number = MAX_EVENTS_KEPT) {
    this.#nowMs = nowMs;
    this.#capacity = capacity;
  }

  /** Id of the newest event; 0 when there is none. */
  get lastId(): number {
    return this.#lastId;
  }

  /** Adds an event and tells the subscribers, before it returns. */
  emit(event: NewEvent): void {
    this.#lastId += 1;
    const full: NodeEvent = { id: this.#lastId, time: new Date(this.#nowMs()).toISOString(), ...event };
    this.#ring[(full.id - 1) % this.#capacity] = full;
    for (const subscriber of this.#subscribers) subscriber(full);
  }

  /** Events with an id above `id`, oldest first, as far as they are kept: the first may be later than `id + 1`. */
  since(id: number, limit: number = this.#capacity): NodeEvent[] {
    const events: NodeEvent[] = [];
    const first = Math.max(id, this.#lastId - this.#capacity, 0) + 1;
    for (let next = first; next <= this.#lastId && events.length < limit; next += 1) {
      const event = this.#ring[(next - 1) % this.#capacity];
      if (event !== undefined) events.push(event);
    }
    return events;
  }

  /**
   * Calls `subscriber` for each event to come, within `emit`: it must be quick, must not throw and must keep nothing
   * unbounded (note that there is news, and read it with `since`). Returns how to end it.
   */
  subscribe(subscriber: (event: NodeEvent) => void): () => void {
    this.#subscribers.add(subscriber);
    return () => {
      this.#subscribers.delete(subscriber);
    };
  }
}
