import { EngineError } from '../../engine/errors.ts';
import { displayText } from '../../protocol/text.ts';
import type { NbdClient } from '../nbd-client.ts';
import { NbdClientError } from '../nbd-client-errors.ts';
import {
  ANSWER_OFFSET_BYTES,
  AnswerDocument,
  COMMAND_OFFSET_BYTES,
  type CommandDocument,
  decodeDocument,
  documentBytes,
  encodeDocument,
  STATE_OFFSET_BYTES,
  StateDocument,
} from './documents.ts';
import { fromTheWire } from './wire-errors.ts';

/** What is read at first: most documents are shorter. */
const FIRST_READ_BYTES = 16 * 1024;
/** Of a text of the secondary, as people are shown it, in bytes. */
const SHOWN_TEXT_BYTES = 1024;

export type GoodAnswer = Extract<AnswerDocument, { ok: true }>;

/** Documents and commands over the connection to a state export. */
export class StateClient {
  readonly #client: NbdClient;
  /** Reads of the document, one after the other: the server keeps one. */
  #reads: Promise<unknown> = Promise.resolve();
  /** Commands, one after the other: the server keeps one answer. */
  #commands: Promise<unknown> = Promise.resolve();

  constructor(client: NbdClient) {
    this.#client = client;
  }

  document(): Promise<StateDocument> {
    const read = this.#reads.then(async () => {
      const bytes = await this.#read(STATE_OFFSET_BYTES);
      const document = decodeDocument('the state of the secondary', StateDocument, bytes);
      return { ...document, state: shownState(document.state) };
    });
    this.#reads = read.catch(() => undefined);
    return read;
  }

  /** Resolves when it is carried out; rejects with what the secondary said. */
  command(command: CommandDocument): Promise<GoodAnswer> {
    const done = this.#commands.then(() => this.#command(command));
    this.#commands = done.catch(() => undefined);
    return done;
  }

  async #command(command: CommandDocument): Promise<GoodAnswer> {
    let refusal: NbdClientError | undefined;
    try {
      await this.#client.write(encodeDocument(command), COMMAND_OFFSET_BYTES);
    } catch (error) {
      if (!(error instanceof NbdClientError)) throw fromTheWire(error);
      refusal = error;
    }
    const bytes = await this.#read(ANSWER_OFFSET_BYTES);
    const answer = decodeDocument('the answer of the secondary', AnswerDocument, bytes);
    if (!answer.ok) {
      const { code, message, errno } = answer;
      throw new EngineError(code, shown(message), errno === undefined ? {} : { errno });
    }
    // Refused before it could be a command, so that the answer is that of the one before.
    if (refusal !== undefined) throw fromTheWire(refusal);
    return answer.state === undefined ? answer : { ...answer, state: shownState(answer.state) };
  }

  async #read(offsetBytes: number): Promise<Buffer> {
    try {
      const start = await this.#client.readBuffer(offsetBytes, FIRST_READ_BYTES);
      const length = documentBytes(start);
      if (length <= start.length) return start;
      const rest = await this.#client.readBuffer(offsetBytes + start.length, length - start.length);
      return Buffer.concat([start, rest]);
    } catch (error) {
      throw fromTheWire(error);
    }
  }
}

function shownState(state: StateDocument['state']): StateDocument['state'] {
  const { heldBack, verifying } = state;
  return {
    ...state,
    heldBack: heldBack === null ? null : shown(heldBack),
    ...(verifying === undefined
      ? {}
      : {
          verifying: { ...verifying, refused: verifying.refused === null ? null : shown(verifying.refused) },
        }),
  };
}

/** Its texts reach events and terminals. */
function shown(text: string): string {
  return displayText(Buffer.from(text), SHOWN_TEXT_BYTES);
}
