/**
 * The secondary's side of a verification: an image of the group at the primary's record, of which it tells which regions have content, and checksums.
 *
 * The primary says first that the record will come (`begin`). Admission asks here what that record does: it makes a layer without a name, as the primary's
 * does there, and the layer is needed until the verification ends, its session ends, or the process does. A record that nobody waits for any more does
 * nothing; so does one in the log at a start. What was taken before is the janitor's then.
 */
import type { Control, VerifyControl } from '../control-record.ts';
import { turnstile } from '../disk/turnstile.ts';
import { EngineError } from '../errors.ts';
import { MAX_RECORDED_NODES } from '../group-record.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { MAX_CHECKSUMS, MAX_CONTENT_REGIONS, type PeerVerification } from '../link/peer.ts';
import type { RegionRun } from '../map/region-map.ts';
import type { Layer } from '../snapshot/chain.ts';
import { checksumsOf, contentRuns } from '../snapshot/checksums.ts';
import type { RegionIndex } from '../units.ts';
import { replicaOf } from './replica-record.ts';

/** Of the layers and restores that a record may have, so many are never for verifications. */
const NODES_SHARE = 1 / 2;

interface Begun {
  readonly session: number;
  readonly id: string;
  layer: Layer | undefined;
  refused: string | undefined;
}

export class Verifying {
  readonly #state: GroupState;
  /** A nameless layer may go. */
  readonly #freed: () => void;
  /** One piece of work at a time: each has memory of its own. */
  readonly #turns = turnstile(1);
  #begun: Begun | undefined;

  constructor(state: GroupState, freed: () => void) {
    this.#state = state;
    this.#freed = freed;
  }

  get view(): PeerVerification | undefined {
    if (this.#begun === undefined) return undefined;
    const { id, layer, refused } = this.#begun;
    return { id, lsn: layer?.lsn ?? null, refused: refused ?? null };
  }

  /** Throws `unavailable` when there can be no image for now, with the reason. `check` throws when the session is over. */
  async begin(session: number, id: string, check: () => void): Promise<void> {
    const { frozen, resync } = replicaOf(this.#state);
    if (frozen)
      throw new EngineError(
        'unavailable',
        'the secondary is frozen, and would not come to an image: thaw it first',
      );
    if (resync !== null)
      throw new EngineError('unavailable', 'the secondary is being resynchronised, and has no image of now');
    if (await this.#state.space.isShort())
      throw new EngineError('unavailable', 'the disk of the secondary has no room to keep an image', {
        errno: 'ENOSPC',
      });
    check();
    if (this.#state.chain.nodes.length > MAX_RECORDED_NODES * NODES_SHARE)
      throw new EngineError(
        'unavailable',
        'the secondary has too many layers to be removed: try again later',
      );
    this.end();
    this.#begun = { session, id, layer: undefined, refused: undefined };
  }

  /** What the record of a verification does here; undefined where it is none that is waited for. */
  controlOf(control: Control): VerifyControl | undefined {
    if (control.type !== 'verify' || control.id !== this.#begun?.id) return undefined;
    if (replicaOf(this.#state).resync === null) return control;
    this.#begun.refused = 'the secondary is being resynchronised, and has no image at that place (K9)';
    return undefined;
  }

  /** It is part of what is shown: its layer has joined the chain in this turn. */
  admitted({ id }: VerifyControl): void {
    const layer = this.#state.chain.layers.find((candidate) => candidate.id === id);
    if (layer === undefined || this.#begun === undefined)
      throw new Error('bug: a verification has its layer');
    layer.users++;
    this.#begun.layer = layer;
  }

  /** Of that id, or any. */
  end(id?: string): void {
    if (this.#begun === undefined || (id !== undefined && id !== this.#begun.id)) return;
    const { layer } = this.#begun;
    this.#begun = undefined;
    if (layer === undefined) return;
    layer.users--;
    this.#freed();
  }

  /** Nobody reads from here on. */
  async close(): Promise<void> {
    this.end();
    await this.#turns(async () => {});
  }

  /** Throws `unavailable` when the verification is over, or has no image yet; `invalid`, `disk`. */
  content(
    session: number,
    id: string,
    volume: GroupVolume,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<readonly RegionRun[]> {
    this.#judge(volume, first, end, MAX_CONTENT_REGIONS);
    return this.#read(session, id, (layer) => contentRuns(this.#state, volume, layer, first, end));
  }

  /** Throws as `content`. */
  checksums(
    session: number,
    id: string,
    volume: GroupVolume,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<Buffer> {
    this.#judge(volume, first, end, MAX_CHECKSUMS);
    return this.#read(session, id, (layer) => {
      const isOver = () => this.#begun?.layer !== layer;
      return checksumsOf(this.#state, volume, layer, first, end, isOver);
    });
  }

  #judge(volume: GroupVolume, first: RegionIndex, end: RegionIndex, most: number): void {
    const count = this.#state.regionCount(volume);
    const isRange = Number.isSafeInteger(first) && Number.isSafeInteger(end) && first >= 0 && first < end;
    if (isRange && end <= count && end - first <= most) return;
    const what = `regions ${first} up to ${end} of volume ${volume.name}: it has ${count}, and ${most} are told at a time`;
    throw new EngineError('invalid', what);
  }

  #read<T>(session: number, id: string, read: (layer: Layer) => Promise<T>): Promise<T> {
    return this.#turns(async () => {
      const layer = this.#require(session, id);
      const result = await read(layer);
      // A layer that went away meanwhile shows nothing that counts.
      this.#require(session, id);
      return result;
    });
  }

  #require(session: number, id: string): Layer {
    const begun = this.#begun;
    if (begun?.session === session && begun.id === id && begun.layer !== undefined) return begun.layer;
    throw new EngineError('unavailable', `this node has no image for verification ${id}`);
  }
}
