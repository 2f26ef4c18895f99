import { EngineError } from '../../engine/errors.ts';
import type { PeerConnector, PeerSession } from '../../engine/link/peer.ts';
import { parseUri } from '../uris.ts';
import { withAdvice } from './advice.ts';
import { NbdPeerSession, type SessionTimes } from './nbd-peer-session.ts';
import { addressOf, type PeerAddress } from './peer-connection.ts';

const DEFAULT_TIMES: SessionTimes = { connectMs: 10_000, silenceMs: 30_000 };

/** Opens links over NBD. */
export class NbdPeerConnector implements PeerConnector {
  readonly #secretOf: (linkId: string) => Promise<Buffer | undefined>;
  readonly #times: SessionTimes;

  /** `secretOf`: of the peer's group, as it was given to the link. */
  constructor(
    secretOf: (linkId: string) => Promise<Buffer | undefined>,
    times: SessionTimes = DEFAULT_TIMES,
  ) {
    this.#secretOf = secretOf;
    this.#times = times;
  }

  /** `groupName`: of the group there, unless the URI names one. */
  async connect(uri: string, groupName: string, linkId: string): Promise<PeerSession> {
    let address: PeerAddress | undefined;
    try {
      address = addressOf(parseUri(uri), groupName, await this.#secretOf(linkId));
      return await NbdPeerSession.open(address, this.#times);
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      const message = address === undefined ? error.message : withAdvice(error, address.group);
      throw new EngineError('unavailable', message, { cause: error });
    }
  }
}
