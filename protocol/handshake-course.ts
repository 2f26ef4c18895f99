/**
 * The course of a handshake, the same on both sides: the peer's bytes, cut anywhere, become the messages that are expected one after the other; each
 * is a step; what the steps send is collected; and one of them ends it.
 */
import { assert } from './assert.ts';
import { Gatherer } from './gatherer.ts';
import type { NegotiatedSession } from './session.ts';

/** `OtherEnd`: the ends that a side knows besides the one that both are after. */
export type CourseOutcome<OtherEnd> =
  | { readonly kind: 'more' }
  /** `consumed`: how many bytes of the last `receive()` belong to the handshake; the rest are the first of the transmission phase. */
  | { readonly kind: 'transmission'; readonly session: NegotiatedSession; readonly consumed: number }
  | OtherEnd;

export class HandshakeCourse<OtherEnd extends object> {
  readonly #gatherer = new Gatherer();
  readonly #step: (message: Buffer) => void;
  #output: Buffer[] = [];
  #outputBytes = 0;
  /** One of the two is set once the handshake is over. */
  #session: NegotiatedSession | undefined;
  #otherEnd: OtherEnd | undefined;

  /** `step` is told each message that was expected when it is whole, and says what is expected next, unless it ends the handshake. */
  constructor(step: (message: Buffer) => void) {
    this.#step = step;
  }

  get isOver(): boolean {
    return this.#session !== undefined || this.#otherEnd !== undefined;
  }

  /** Bytes that are to be sent with the `receive` under way. */
  get outputBytes(): number {
    return this.#outputBytes;
  }

  /** The next message has so many bytes, which the caller has bounded. */
  expect(lengthBytes: number): void {
    this.#gatherer.expect(lengthBytes);
  }

  /** The next message has so many bytes, and nobody wants them: the step is told an empty one. */
  discard(lengthBytes: number): void {
    this.#gatherer.discard(lengthBytes);
  }

  send(bytes: Buffer): void {
    this.#output.push(bytes);
    this.#outputBytes += bytes.length;
  }

  /** Ends the handshake in the transmission phase. */
  agree(session: NegotiatedSession): void {
    this.#session = session;
  }

  /** Ends it otherwise. */
  end(end: OtherEnd): void {
    this.#otherEnd = end;
  }

  /** Takes bytes of the peer; the caller may use the buffer again at once, and owns the output. */
  receive(bytes: Uint8Array): { output: Buffer; outcome: CourseOutcome<OtherEnd> } {
    assert(!this.isOver, 'bytes for a handshake that is over');
    let position = 0;
    while (!this.isOver) {
      position = this.#gatherer.take(bytes, position);
      if (this.#gatherer.missingBytes > 0) break;
      this.#step(this.#gatherer.message);
    }
    const output = Buffer.concat(this.#output);
    this.#output = [];
    this.#outputBytes = 0;
    return { output, outcome: this.#outcome(position) };
  }

  #outcome(consumed: number): CourseOutcome<OtherEnd> {
    if (this.#session !== undefined) return { kind: 'transmission', session: this.#session, consumed };
    return this.#otherEnd ?? { kind: 'more' };
  }
}
