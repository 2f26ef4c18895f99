/** One NBD connection to an export of a secondary, with the proof that it takes. */
import { EngineError } from '../../engine/errors.ts';
import { formatNbdUri, type NbdUri } from '../../protocol/uri.ts';
import { NbdClient, type NbdClientOptions } from '../nbd-client.ts';
import { formatTarget, type ReplicationTarget, withProof } from './names.ts';
import { CHALLENGE_PREFIX, clientProof, nonceOf } from './proof.ts';
import { fromTheWire } from './wire-errors.ts';

/** Where a secondary is, and what opens it. */
export interface PeerAddress {
  readonly uri: NbdUri;
  /** The group there. */
  readonly group: string;
  /** Of that group; undefined over a unix socket, where nobody asks for it. */
  readonly secret: Buffer | undefined;
}

/** Payload of one link under way at most: more than it sends before it waits for a sync. */
const MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024;

export interface PeerConnection {
  readonly client: NbdClient;
  /** What the server asked to have proved; undefined where nothing was. */
  readonly serverNonce: string | undefined;
}

/** Rejects with `unavailable` when the node is not there, refuses, or asks for nothing where it has to. */
export async function openPeer(
  address: PeerAddress,
  target: ReplicationTarget,
  options: Pick<NbdClientOptions, 'contexts' | 'offsetUnitBytes' | 'timeoutMs'>,
): Promise<PeerConnection> {
  const name = formatTarget(target);
  const { secret } = address;
  let serverNonce: string | undefined;
  const challenge = secret && {
    query: CHALLENGE_PREFIX,
    answer: (contexts: readonly string[]): string | undefined => {
      serverNonce = nonceOf(contexts);
      return serverNonce && withProof(name, clientProof(secret, serverNonce, name));
    },
  };
  try {
    const client = await NbdClient.connect(
      { ...address.uri, exportName: name },
      {
        contexts: [],
        maxInFlightBytes: MAX_IN_FLIGHT_BYTES,
        // Not the name of the export, which says nothing to people and is another one each time.
        where: formatNbdUri(address.uri),
        ...options,
        ...(challenge === undefined ? {} : { challenge }),
      },
    );
    return { client, serverNonce };
  } catch (error) {
    throw fromTheWire(error);
  }
}

/** Throws `unavailable` for a URI that cannot be reached as it is: over TCP a secret is needed, and TLS is not there yet. */
export function addressOf(uri: NbdUri, groupName: string, secret: Buffer | undefined): PeerAddress {
  const group = uri.exportName === '' ? groupName : uri.exportName;
  if (uri.tls)
    throw new EngineError('unavailable', 'links over TLS are not supported: use nbd: or nbd+unix:');
  if (uri.address.kind === 'unix') return { uri, group, secret: undefined };
  if (secret === undefined)
    throw new EngineError(
      'unavailable',
      `over TCP a link proves the secret of group ${group} there, and this one was given none: use --secret-file`,
    );
  return { uri, group, secret };
}
