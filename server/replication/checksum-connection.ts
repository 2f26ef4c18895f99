import { EngineError } from '../../engine/errors.ts';
import { CHECKSUM_BYTES } from '../../engine/link/peer.ts';
import type { RegionRun } from '../../engine/map/region-map.ts';
import { BASE_ALLOCATION } from '../../protocol/constants.ts';
import type { NbdClient } from '../nbd-client.ts';
import { addContent } from './checksums-device.ts';

export interface ChecksumHost {
  /** Opens a connection of the session to the checksums of a volume. */
  readonly open: (verifyId: string, volume: string) => Promise<NbdClient>;
  /** Says goodbye to one. */
  readonly part: (opened: Promise<NbdClient>) => void;
}

interface Open {
  readonly verifyId: string;
  readonly volume: string;
  readonly client: Promise<NbdClient>;
}

/** The connection of a session to the checksums of the volume that is compared, opened with the first call about it. */
export class ChecksumConnection {
  readonly #host: ChecksumHost;
  #open: Open | undefined;

  constructor(host: ChecksumHost) {
    this.#host = host;
  }

  async content(verifyId: string, volume: string, first: number, end: number): Promise<RegionRun[]> {
    const client = await this.#client(verifyId, volume);
    if (client.session.contexts.length === 0)
      throw new EngineError('unavailable', `the secondary does not tell ${BASE_ALLOCATION} of checksums`);
    const runs: { first: number; end: number }[] = [];
    for (let at = first; at < end; ) {
      const answer = await client.blockStatus(at * CHECKSUM_BYTES, (end - at) * CHECKSUM_BYTES);
      at = addContent(runs, answer.get(BASE_ALLOCATION) ?? [], at);
    }
    return runs;
  }

  async checksums(verifyId: string, volume: string, first: number, end: number): Promise<Buffer> {
    const client = await this.#client(verifyId, volume);
    return await client.readBuffer(first * CHECKSUM_BYTES, (end - first) * CHECKSUM_BYTES);
  }

  end(): void {
    if (this.#open !== undefined) this.#host.part(this.#open.client);
    this.#open = undefined;
  }

  #client(verifyId: string, volume: string): Promise<NbdClient> {
    if (this.#open?.verifyId === verifyId && this.#open.volume === volume) return this.#open.client;
    this.end();
    const client = this.#host.open(verifyId, volume);
    const open = { verifyId, volume, client };
    this.#open = open;
    client.catch(() => {
      if (this.#open === open) this.#open = undefined;
    });
    return client;
  }
}
