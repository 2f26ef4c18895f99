/**
 * The chain of a group: its snapshots and the restores that still have regions to come, in the order of the log.
 *
 *      oldest                                                     newest
 *   ┌─────────┐   ┌─────────┐   ╔═══════════╗   ┌─────────┐   ┌───────────┐
 *   │ layer A │──▶│ layer B │──▶║ restore R ║──▶│ layer C │──▶│ raw volume│ + pending records
 *   └─────────┘   └─────────┘   ╚═════╤═════╝   └─────────┘   └───────────┘
 *                      ▲              │ source
 *                      └──────────────┘
 *
 * A **layer** holds, for each volume, the regions that were copied out before they were overwritten while it was the newest one (*preserved*),
 * and those that were written through the snapshot (*modified*). It reads a region from its modified store, else from the first preserved
 * copy at or after itself, else from the volume.
 *
 * A **restore** is a node as long as it has regions to come (rule T1). For such a region whoever is older reads no further than it, then the raw
 * volume; whoever is newer, and the volume, reads through it to its source. So a restore is complete for every reader at its record.
 *
 * Nodes join when their record is appended, and are *applied* once the applier has come to it. Everything before that they see in the
 * pending records below their LSN (rule L2).
 */
import type { Disk } from '../disk/disk.ts';
import { assert } from '../errors.ts';
import type { DurableMap } from '../map/durable-map.ts';
import type { RegionMap, RegionMapView } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import type { RegionStore } from './region-store.ts';

/** What a layer has of one volume. */
export interface LayerPart {
  preserved: RegionStore | undefined;
  modified: RegionStore | undefined;
  /** While it is being detached: copies of what it shows from elsewhere. */
  copied: RegionStore | undefined;
  /** The volume with reference to the snapshot: regions preserved in this layer or a newer one. */
  readonly changed: RegionMap;
}

/** What a snapshot is to those who read through it: `Layer`, or a detached copy. */
export interface ImageSource {
  readonly id: string;
  /** Of what it shows at its LSN, the same on all members. A detached one has another after each refresh, under the same id. */
  readonly imageId: string;
  /** As everybody who asks sees it; null once it was taken away. */
  name: string | null;
  /** Restores, and other copies, that read from it now: while there are any it is needed, whatever its name. */
  users: number;
  /** A write to it that is under way: what it shows is in between until that has ended. */
  writing: Promise<void> | undefined;
  /** Writes to it wait until this has settled: it is about to be restored from, as it is. */
  held: Promise<void> | undefined;
}

export class Layer implements ImageSource {
  readonly kind = 'layer';
  readonly id: string;
  readonly lsn: Lsn;
  readonly createdAt: string;
  readonly local: boolean;
  /** Names of the volumes that restoring it restores, where it was taken to undo a restore. */
  undoOf: readonly string[] | undefined;
  /** As everybody who asks sees it; null once it was taken away. */
  name: string | null;
  /** The name in the group's record: it lags behind `name` until the record of the change is applied, and decides whether the layer receives. */
  recordedName: string | null = null;
  applied = false;
  users = 0;
  writing: Promise<void> | undefined;
  held: Promise<void> | undefined;
  detaching = false;
  /** A record has it detached, from the head of the log on; it is `detaching` once that is applied. */
  toBeDetached = false;
  readonly parts: readonly LayerPart[];
  /** Sees all pending records below its LSN. */
  readonly below: readonly Lsn[];

  constructor(
    identity: {
      readonly id: string;
      readonly lsn: Lsn;
      readonly name: string | null;
      readonly createdAt: string;
      readonly local: boolean;
      readonly undoOf?: readonly string[] | undefined;
    },
    parts: readonly LayerPart[],
  ) {
    this.id = identity.id;
    this.lsn = identity.lsn;
    this.name = identity.name;
    this.createdAt = identity.createdAt;
    this.local = identity.local;
    this.undoOf = identity.undoOf;
    this.parts = parts;
    this.below = [-1, identity.lsn];
  }

  get imageId(): string {
    return this.id;
  }

  /** Whether it goes on receiving what is overwritten: somebody can name it, or reads from it. */
  get needed(): boolean {
    return this.recordedName !== null || this.users > 0;
  }
}

/** What a restore has of one volume. */
export interface RestorePart {
  /** The regions that are still to come. In memory alone until the restore is applied. */
  toCome: RegionMapView;
  durable: DurableMap | undefined;
  disk: Disk | undefined;
  readonly total: number;
}

/** A layer's image at its LSN: without what was written through it. */
export class ImageOf {
  readonly kind = 'image';
  readonly id: string;
  readonly layer: Layer;

  constructor(layer: Layer) {
    this.id = layer.id;
    this.layer = layer;
  }
}

/** A detached snapshot as it was at an LSN: a restore from it goes on reading that where it is refreshed meanwhile (rule T3). */
export class DetachedAt {
  readonly kind = 'detached-at';
  readonly id: string;
  readonly snapshot: DetachedImage;
  readonly lsn: Lsn;

  constructor(snapshot: DetachedImage, lsn: Lsn) {
    this.id = snapshot.id;
    this.snapshot = snapshot;
    this.lsn = lsn;
  }
}

export class RestoreNode {
  readonly kind = 'restore';
  readonly id: string;
  readonly lsn: Lsn;
  readonly source: Layer | DetachedImage;
  /** What is read of the source. A secondary's own writes to it are none of the primary's restore (rule K10). */
  readonly view: Layer | DetachedAt | ImageOf;
  /** By volume; undefined where the volume is not restored. */
  readonly parts: readonly (RestorePart | undefined)[];
  applied = false;

  constructor(
    id: string,
    lsn: Lsn,
    source: Layer | DetachedImage,
    parts: readonly (RestorePart | undefined)[],
    imageOnly = false,
  ) {
    if (source.kind === 'detached') this.view = new DetachedAt(source, lsn);
    else this.view = imageOnly ? new ImageOf(source) : source;
    this.id = id;
    this.lsn = lsn;
    this.source = source;
    this.parts = parts;
  }

  get toComeCount(): number {
    return this.parts.reduce((sum, part) => sum + (part?.toCome.count ?? 0), 0);
  }

  get total(): number {
    return this.parts.reduce((sum, part) => sum + (part?.total ?? 0), 0);
  }
}

/** A snapshot that has left the chain, with a copy of everything: it reads from nobody else. */
export interface DetachedImage extends ImageSource {
  readonly kind: 'detached';
  /** The store that holds a region, or the layer to read it through while it is being refreshed, by a record below `atLsn`. */
  locate(volumeIndex: number, region: RegionIndex, atLsn: Lsn): RegionStore | Layer;
}

export type ChainNode = Layer | RestoreNode;

/** Where a region is read: a store, or the raw volume when there is none; and which pending records lie over it, as pairs of LSNs, both exclusive. */
export interface Place {
  readonly store: RegionStore | undefined;
  readonly lsns: readonly Lsn[];
}

/** Whose view is asked for: the volume's (undefined), a snapshot's, or its image. */
export type View = Layer | DetachedImage | DetachedAt | ImageOf | undefined;

const NOTHING_OVER: readonly Lsn[] = [];
/** Of a layer that has left the chain while somebody read: whoever asked for it looks again at what he asked for. */
const GONE: Place = { store: undefined, lsns: NOTHING_OVER };
const HEAD: Place = { store: undefined, lsns: [-1, Number.POSITIVE_INFINITY] };

export class Chain {
  /** Oldest first. */
  readonly nodes: ChainNode[] = [];
  #restores: RestoreNode[] = [];

  /** The restores with regions to come, oldest first. */
  get restores(): readonly RestoreNode[] {
    return this.#restores;
  }

  get layers(): Layer[] {
    return this.nodes.filter((node): node is Layer => node.kind === 'layer');
  }

  /** Takes the newest node in. */
  append(node: ChainNode): void {
    assert(node.lsn >= (this.nodes.at(-1)?.lsn ?? 0), 'nodes join in the order of the log');
    this.nodes.push(node);
    this.#changed();
  }

  /** Puts a node back where it was: its removal could not be made durable. */
  putBack(node: ChainNode, index: number): void {
    this.nodes.splice(index, 0, node);
    this.#changed();
  }

  remove(node: ChainNode): void {
    const index = this.nodes.indexOf(node);
    assert(index >= 0, 'the node is in the chain');
    this.nodes.splice(index, 1);
    this.#changed();
  }

  #changed(): void {
    this.#restores = this.nodes.filter((node): node is RestoreNode => node.kind === 'restore');
  }

  /** Where `view` finds a region now. Whoever waits meanwhile asks again afterwards (rule S2). */
  locate(volumeIndex: number, region: RegionIndex, view: View): Place {
    if (view === undefined) return this.#through(volumeIndex, region, this.nodes.length, HEAD);
    if (view.kind === 'image') return this.#image(volumeIndex, region, view.layer);
    if (view.kind === 'detached') return this.#detached(volumeIndex, region, view, Number.POSITIVE_INFINITY);
    if (view.kind === 'detached-at') return this.#detached(volumeIndex, region, view.snapshot, view.lsn);
    const modified = view.parts[volumeIndex]?.modified;
    if (modified?.map.has(region)) return inStore(modified);
    return this.#image(volumeIndex, region, view);
  }

  #detached(volumeIndex: number, region: RegionIndex, image: DetachedImage, atLsn: Lsn): Place {
    const found = image.locate(volumeIndex, region, atLsn);
    return found instanceof Layer ? this.#image(volumeIndex, region, found) : inStore(found);
  }

  #image(volumeIndex: number, region: RegionIndex, layer: Layer): Place {
    const start = this.nodes.indexOf(layer);
    if (start < 0) return GONE;
    for (let index = start; index < this.nodes.length; index++) {
      const node = this.nodes[index];
      if (node?.kind === 'layer') {
        const preserved = node.parts[volumeIndex]?.preserved;
        if (preserved?.map.has(region)) return inStore(preserved);
      } else if (node?.parts[volumeIndex]?.toCome.has(region)) break;
    }
    return this.#through(volumeIndex, region, start, { store: undefined, lsns: layer.below });
  }

  /** The raw volume as whoever stands before node `before` sees it: through the newest restore that is older and has the region to come. */
  #through(volumeIndex: number, region: RegionIndex, before: number, raw: Place): Place {
    if (this.#restores.length === 0) return raw;
    for (let index = before - 1; index >= 0; index--) {
      const node = this.nodes[index];
      if (node?.kind !== 'restore' || !node.parts[volumeIndex]?.toCome.has(region)) continue;
      const source = this.locate(volumeIndex, region, node.view);
      return { store: source.store, lsns: [...source.lsns, node.lsn, raw.lsns[1] ?? 0] };
    }
    return raw;
  }

  /**
   * The layer that receives what is overwritten, among the nodes before `before`: the newest applied one that is needed. Nameless layers that
   * nobody needs do not receive.
   */
  receiver(before: number = this.nodes.length): number {
    for (let index = before - 1; index >= 0; index--) {
      const node = this.nodes[index];
      if (node?.kind === 'layer' && node.applied && node.needed) return index;
    }
    return -1;
  }

  /** Whether a layer from node `from` up to node `to`, exclusive, has preserved the region. */
  isPreserved(volumeIndex: number, region: RegionIndex, from: number, to: number): boolean {
    for (let index = from; index < to; index++) {
      const node = this.nodes[index];
      if (node?.kind === 'layer' && node.parts[volumeIndex]?.preserved?.map.has(region)) return true;
    }
    return false;
  }

  /** Notes regions as changed in the layer at `index` and all older ones. What is changed for one is changed for those before it already. */
  noteChanged(volumeIndex: number, regions: readonly RegionIndex[], index: number): void {
    const maps: RegionMap[] = [];
    for (let at = index; at >= 0; at--) {
      const node = this.nodes[at];
      const changed = node?.kind === 'layer' ? node.parts[volumeIndex]?.changed : undefined;
      if (changed !== undefined) maps.push(changed);
    }
    for (const region of regions) {
      for (const changed of maps) {
        if (changed.has(region)) break;
        changed.set(region);
      }
    }
  }
}

function inStore(store: RegionStore): Place {
  return { store, lsns: NOTHING_OVER };
}

/** Whether two looks at a region found the same. */
export function samePlace(a: Place, b: Place): boolean {
  if (a.store !== b.store || a.lsns.length !== b.lsns.length) return false;
  return a.lsns === b.lsns || a.lsns.every((lsn, index) => lsn === b.lsns[index]);
}
