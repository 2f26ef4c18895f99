import { EngineError } from '../../engine/errors.ts';
import type { Announcement, PeerState, ReplicaPort } from '../../engine/link/peer.ts';
import {
  ANSWER_OFFSET_BYTES,
  type AnswerDocument,
  COMMAND_OFFSET_BYTES,
  CommandDocument,
  DOCUMENT_ROOM_BYTES,
  decodeDocument,
  encodeDocument,
  STATE_EXPORT_BYTES,
  STATE_OFFSET_BYTES,
  type StateDocument,
} from './documents.ts';
import { ReplicationDevice } from './replication-device.ts';
import { forTheWire } from './wire-errors.ts';

export interface StateParts {
  readonly port: ReplicaPort;
  /** What this server proves, when the client asked for it. */
  readonly proof: string | undefined;
  /** The connection has become a session of the port's. Throws `unavailable` when it is gone already. */
  readonly begun: (session: number, announcement: Announcement) => void;
}

const NOTHING_ASKED: AnswerDocument = { ok: false, code: 'invalid', message: 'no command was given yet' };

/** What a secondary says of itself, and the commands to it. One command is carried out at a time. */
export class StateDevice extends ReplicationDevice {
  readonly sizeBytes = STATE_EXPORT_BYTES;
  readonly #parts: StateParts;
  /** As it was when offset 0 was last read. */
  #document: Buffer = Buffer.alloc(0);
  #answer: Buffer = encodeDocument(NOTHING_ASKED);
  #session: number | undefined;
  #commands: Promise<unknown> = Promise.resolve();

  constructor(parts: StateParts) {
    super();
    this.#parts = parts;
  }

  override tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    if (offsetBytes === STATE_OFFSET_BYTES) this.#capture();
    target.fill(0, targetStart, targetStart + lengthBytes);
    for (const [bytes, place] of [
      [this.#document, STATE_OFFSET_BYTES],
      [this.#answer, ANSWER_OFFSET_BYTES],
    ] as const) {
      const from = Math.max(offsetBytes, place);
      const to = Math.min(offsetBytes + lengthBytes, place + bytes.length);
      if (from < to) bytes.copy(target, targetStart + from - offsetBytes, from - place, to - place);
    }
    return true;
  }

  override async read(
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    this.tryRead(target, targetStart, lengthBytes, offsetBytes);
  }

  override write(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    return this.call(async () => {
      if (offsetBytes !== COMMAND_OFFSET_BYTES || lengthBytes > DOCUMENT_ROOM_BYTES)
        throw new EngineError(
          'invalid',
          `${lengthBytes} bytes at ${offsetBytes}: a command is one write at ${COMMAND_OFFSET_BYTES}`,
        );
      const bytes = source.subarray(sourceStart, sourceStart + lengthBytes);
      const command = decodeDocument('the command', CommandDocument, bytes);
      const done = this.#commands.then(() => this.#carryOut(command));
      this.#commands = done.catch(() => undefined);
      await done;
    });
  }

  #capture(): void {
    try {
      const document: StateDocument = { state: toldState(this.#parts.port.state()) };
      if (this.#parts.proof !== undefined) document.proof = this.#parts.proof;
      this.#document = encodeDocument(document);
    } catch (error) {
      throw forTheWire(error);
    }
  }

  async #carryOut(command: CommandDocument): Promise<void> {
    try {
      this.#answer = encodeDocument({ ok: true, ...(await this.#ask(command)) });
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      const { code, message, errno } = error;
      this.#answer = encodeDocument({
        ok: false,
        code,
        message: message.slice(0, 4096),
        ...(errno === undefined ? {} : { errno }),
      });
      throw error;
    }
  }

  async #ask(command: CommandDocument): Promise<Partial<Extract<AnswerDocument, { ok: true }>>> {
    const { port } = this.#parts;
    switch (command.call) {
      case 'begin': {
        if (this.#session !== undefined)
          throw new EngineError('invalid', 'this connection has begun already: connect again');
        const { session, state } = await port.begin(command.announcement);
        this.#session = session;
        this.#parts.begun(session, command.announcement);
        return { session, state: toldState(state) };
      }
      case 'restart':
        await port.restart(this.#requireSession(), command.restart);
        return {};
      case 'hold':
        await port.hold(this.#requireSession(), command.roundId, command.lsn);
        return {};
      case 'release':
        await port.release(this.#requireSession(), command.roundId, command.complete);
        return {};
      case 'verify':
        await port.beginVerify(this.#requireSession(), command.verifyId);
        return {};
      case 'end-verify':
        await port.endVerify(this.#requireSession(), command.verifyId);
        return {};
      default:
        return command satisfies never;
    }
  }

  #requireSession(): number {
    if (this.#session !== undefined) return this.#session;
    throw new EngineError('invalid', 'this connection has not begun: the first command is "begin"');
  }
}

function toldState(state: PeerState): StateDocument['state'] {
  const { verifying, ...told } = state;
  return {
    ...told,
    volumes: [...state.volumes],
    snapshots: [...state.snapshots],
    ...(verifying === undefined ? {} : { verifying }),
  };
}
