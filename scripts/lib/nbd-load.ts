import { NbdClient } from '../../server/nbd-client.ts';
import { generator } from './random.ts';

/** Requests of one size at random offsets over many connections: the load that bounds are measured under. */
export interface Load {
  readonly uri: string;
  readonly connections: number;
  /** Requests that each connection keeps in flight. */
  readonly depth: number;
  readonly requestBytes: number;
  readonly requestsPerConnection: number;
  /** Share of the requests that are writes: half unless told. */
  readonly writes?: number;
  readonly sizeBytes: number;
}

/**
 * Puts a load on a server and resolves when every request has been answered. All reads land in one buffer and all
 * writes come from another: what is in them does not matter here, and the memory measured is the server's.
 */
export async function putLoad(load: Load): Promise<void> {
  const target = Buffer.alloc(load.requestBytes);
  const source = Buffer.alloc(load.requestBytes, 0xa5);
  const random = generator(load.requestBytes);
  const limits = { maxInFlight: load.depth, maxInFlightBytes: load.depth * load.requestBytes };
  const slots = Math.floor(load.sizeBytes / load.requestBytes);
  const clients = await Promise.all(
    Array.from({ length: load.connections }, () => NbdClient.connect(load.uri, limits)),
  );
  const request = (client: NbdClient): Promise<void> => {
    const offsetBytes = Math.floor(random() * slots) * load.requestBytes;
    return random() < (load.writes ?? 0.5)
      ? client.write(source, offsetBytes)
      : client.read(target, offsetBytes);
  };
  const lane = async (client: NbdClient, requests: number): Promise<void> => {
    for (let done = 0; done < requests; done++) await request(client);
  };
  try {
    const perLane = Math.ceil(load.requestsPerConnection / load.depth);
    await Promise.all(
      clients.flatMap((client) => Array.from({ length: load.depth }, () => lane(client, perLane))),
    );
  } finally {
    await Promise.all(clients.map((client) => client.disconnect()));
  }
}
