/**
 * A secondary that feeds others (rule K11). Its log is its primary's, byte for byte, so that links ship it as a primary's; but a round of theirs is no record there:
 * its image is taken between two batches, where this node's applier comes to stand (`stops.ts`). While this node is resynchronised itself it has no image to give.
 */
import { EngineError } from '../errors.ts';
import { minLogBytes } from '../group-spec.ts';
import {
  type Feeder,
  namedOf,
  RING_MARGIN_BYTES,
  type RoundImage,
  RoundPostponed,
  type RoundRequest,
} from '../link/feeder.ts';
import { MAX_BATCH_BYTES } from '../log/record.ts';
import type { ReplicaParts } from './parts.ts';
import { heldBackOf } from './peer-state.ts';
import { replicaOf } from './replica-record.ts';
import { RESYNCING } from './stops.ts';

export class Cascade implements Feeder {
  readonly #parts: ReplicaParts;

  constructor(parts: ReplicaParts) {
    this.#parts = parts;
  }

  get noSession(): string | undefined {
    const { upstream, restart } = replicaOf(this.#parts.state);
    if (upstream === null) return 'this node has not met its own primary yet';
    return restart === null ? undefined : 'the log of this node begins anew';
  }

  get noRound(): string | undefined {
    return replicaOf(this.#parts.state).resync === null ? undefined : RESYNCING;
  }

  get holdUp(): string | undefined {
    if (this.#parts.admission.stops.isEmpty) return undefined;
    const why = heldBackOf(this.#parts);
    return why && `this node has not applied yet what its secondary has: ${why}`;
  }

  get path(): readonly string[] {
    const { upstream } = replicaOf(this.#parts.state);
    return upstream === null ? [] : [upstream.memberId, ...upstream.path];
  }

  /** Batches are as large as the primary makes them, and have found room in the ring here. */
  get leastRingBytes(): number {
    const { log, record } = this.#parts.state;
    const batchBytes = Math.min(MAX_BATCH_BYTES + RING_MARGIN_BYTES, log.capacityBytes);
    return Math.max(batchBytes, minLogBytes(record.volumes, record.regionBytes));
  }

  /** Its record would have to be in a log that is its primary's. */
  verifyImage(): never {
    throw new EngineError('unsupported', 'a secondary does not compare itself with those that it feeds');
  }

  get named(): Feeder['named'] {
    const { admission, effects } = this.#parts;
    return { lsn: admission.horizonLsn, snapshots: namedOf(effects.named) };
  }

  /** At the horizon, or where what the secondary may have ends, whichever is later. */
  async begin(request: RoundRequest): Promise<RoundImage> {
    const { state, admission } = this.#parts;
    const { image } = await state.lane(async () => {
      const why = this.noSession ?? this.noRound;
      if (why !== undefined) throw new RoundPostponed(why);
      const lsn = Math.max(request.leastLsn(), admission.horizonLsn);
      request.shipping.limit(lsn);
      return { image: admission.stops.add(request, lsn) };
    });
    admission.poke();
    return await image;
  }
}
