/**
 * What the control records of the log do to the chain: twice each, and in the same order on every node.
 *
 * At the **head**, when the record is appended (or found in the log at start): from here on everybody who asks sees it, with the pending records
 * below it as its past. At the **barrier**, when the applier comes to it: its effect becomes durable in the group's record, together with the
 * checkpoint just past it (rule L10), and files that it needs are made before.
 */

import type { Control, RefreshControl, RestoreControl, RoundControl } from '../control-record.ts';
import { assert, EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import { DurableMap } from '../map/durable-map.ts';
import type { Lsn } from '../units.ts';
import { Layer, RestoreNode, type RestorePart } from './chain.ts';
import type { DetachedSnapshot } from './detached.ts';
import { appendRefresh, prepareRefresh } from './refresh.ts';

/** The automatic snapshot before a restore. A user's own cannot be named so. */
export const UNDO_NAME = 'undo';

export type Snapshot = Layer | DetachedSnapshot;

export class ControlEffects {
  readonly #state: GroupState;
  /** On a secondary a restore reads what its source was on the primary. */
  readonly #imageOnly: boolean;
  /** A snapshot is gone, or goes on as another one since its refresh: those who serve it are told. */
  onGone: (id: string, successor: string | undefined) => void = () => {};

  constructor(state: GroupState) {
    this.#state = state;
    this.#imageOnly = state.record.replica !== null;
  }

  /** All snapshots that have a name, oldest first. */
  get named(): Snapshot[] {
    const { chain, detached } = this.#state;
    const all: Snapshot[] = [...chain.layers, ...detached];
    return all.filter((snapshot) => snapshot.name !== null).sort((a, b) => a.lsn - b.lsn);
  }

  /** Names are unique, so that nothing is sorted for this: it is asked often. */
  find(name: string): Snapshot | undefined {
    const { chain, detached } = this.#state;
    return detached.find((each) => each.name === name) ?? chain.layers.find((layer) => layer.name === name);
  }

  byId(id: string): Snapshot | undefined {
    const { chain, detached } = this.#state;
    return detached.find((snapshot) => snapshot.id === id) ?? chain.layers.find((layer) => layer.id === id);
  }

  /** The effect of a record at the head of the log, at once. */
  append(control: Control, lsn: Lsn): void {
    switch (control.type) {
      case 'snapshot':
        this.#addLayer({ ...control, lsn });
        return;
      case 'rename': {
        const snapshot = this.byId(control.id);
        if (snapshot?.name != null) snapshot.name = control.name;
        return;
      }
      case 'delete':
        this.#takeName(control.id);
        return;
      case 'refresh':
        this.#appendRefresh(control, lsn);
        return;
      case 'restore':
        this.#appendRestore(control, lsn);
        return;
      case 'round':
      case 'verify':
        this.#addLayer({ ...control, lsn, name: null, local: true });
        return;
      case 'detach': {
        const snapshot = this.byId(control.id);
        if (snapshot?.kind === 'layer') snapshot.toBeDetached = true;
        return;
      }
    }
  }

  #addLayer(identity: {
    readonly id: string;
    readonly lsn: Lsn;
    readonly name: string | null;
    readonly createdAt: string;
    readonly local: boolean;
    readonly undoOf?: readonly string[];
  }): Layer {
    const { chain, voided, volumes } = this.#state;
    const name = voided.has(identity.id) ? null : identity.name;
    const layer = new Layer({ ...identity, name }, this.#state.layerParts());
    chain.append(layer);
    for (const volume of volumes) volume.pending.nodeAppended(identity.lsn);
    return layer;
  }

  #takeName(id: string, successor?: string): void {
    const snapshot = this.byId(id);
    if (snapshot === undefined || snapshot.name === null) return;
    snapshot.name = null;
    this.onGone(id, successor);
  }

  #appendRefresh(control: RefreshControl, lsn: Lsn): void {
    const snapshot = this.byId(control.id);
    if (snapshot === undefined) return;
    // One that another member had not detached yet when it was refreshed goes like an attached one.
    if (snapshot.kind === 'detached' && control.detached !== false) {
      const layer = this.#addLayer({ ...control, id: control.nextId, lsn, name: null, local: true });
      appendRefresh(this.#state, snapshot, layer);
      return;
    }
    const { name, local } = snapshot;
    this.#takeName(control.id, control.nextId);
    this.#addLayer({ id: control.nextId, lsn, name, createdAt: control.createdAt, local });
  }

  #appendRestore(control: RestoreControl, lsn: Lsn): void {
    const source = this.byId(control.sourceId);
    if (source === undefined) throw new EngineError('corrupt', 'the log restores from an unknown snapshot');
    // A restore that names no source any more, of one that was given up, keeps it all the same.
    source.users++;
    const { undo } = control;
    if (undo.replaces !== null) this.#takeName(undo.replaces);
    const undoOf = control.volumes.map((volume) => volume.name);
    // Inside a resync there is no image to go back to (rule K9).
    if (this.#state.record.replica?.resync == null)
      this.#addLayer({ ...undo, lsn, name: UNDO_NAME, local: false, undoOf });
    const parts = this.#state.volumes.map((volume): RestorePart | undefined => {
      const map = control.volumes.find((candidate) => candidate.name === volume.name)?.restoration;
      if (map === undefined) return undefined;
      return { toCome: map, durable: undefined, disk: undefined, total: map.count };
    });
    this.#state.chain.append(new RestoreNode(control.id, lsn, source, parts, this.#imageOnly));
  }

  /**
   * The effect of a record in what the group's record is made of, and in files; the caller makes it durable. Returns how to take it back. In
   * the lane.
   */
  async prepare(control: Control): Promise<() => void> {
    // A try before this one may have left a record that names the files which are made anew here.
    await this.#state.settleRecord();
    switch (control.type) {
      case 'snapshot':
        return this.#applyLayer(control.id, control.name);
      case 'rename':
        return this.#recordName(control.id, control.name);
      case 'delete':
        return this.#recordName(control.id, null);
      case 'refresh':
        return await this.#prepareRefresh(control);
      case 'restore':
        return await this.#prepareRestore(control);
      case 'round':
        return this.#applyRound(control);
      case 'verify':
        return this.#applyLayer(control.id, null);
      case 'detach':
        return this.#beginDetach(control.id);
    }
  }

  #applyLayer(id: string, name: string | null): () => void {
    const layer = this.#state.chain.layers.find((candidate) => candidate.id === id);
    assert(layer !== undefined, 'the record of a snapshot is applied once');
    const given = this.#state.voided.delete(id);
    layer.applied = true;
    layer.recordedName = given ? null : name;
    return () => {
      layer.applied = false;
      layer.recordedName = null;
      if (given) this.#state.voided.add(id);
    };
  }

  /** What its link lacks below it is marked, and what follows comes through the log (rule K7). */
  #applyRound(control: RoundControl): () => void {
    const applied = this.#applyLayer(control.id, null);
    const link = this.#state.links.find((candidate) => candidate.id === control.linkId);
    const layer = this.#state.chain.layers.find((candidate) => candidate.id === control.id);
    const began = layer === undefined ? undefined : link?.beginLog(control.id, layer.lsn);
    return () => {
      began?.();
      applied();
    };
  }

  /** Null takes the name away. A snapshot without a name does not get one again. */
  #recordName(id: string, name: string | null): () => void {
    const snapshot = this.byId(id);
    const old = snapshot?.recordedName ?? null;
    if (snapshot === undefined || old === null) return () => {};
    snapshot.recordedName = name;
    return () => {
      snapshot.recordedName = old;
    };
  }

  #beginDetach(id: string): () => void {
    const layer = this.byId(id);
    if (layer?.kind !== 'layer' || layer.recordedName === null || layer.detaching) return () => {};
    layer.detaching = true;
    return () => {
      layer.detaching = false;
    };
  }

  async #prepareRefresh(control: RefreshControl): Promise<() => void> {
    const snapshot = this.byId(control.id);
    if (snapshot === undefined) return () => {};
    if (snapshot.kind === 'detached' && control.detached !== false) {
      const applied = this.#applyLayer(control.nextId, null);
      try {
        const takeBack = await prepareRefresh(this.#state, snapshot, control);
        return () => {
          takeBack();
          applied();
        };
      } catch (error) {
        applied();
        throw error;
      }
    }
    const name = snapshot.recordedName;
    const next = this.#applyLayer(control.nextId, name);
    const old = this.#recordName(control.id, null);
    return () => {
      old();
      next();
    };
  }

  async #prepareRestore(control: RestoreControl): Promise<() => void> {
    const { chain, trackers, links, volumes } = this.#state;
    const hasUndo = chain.layers.some((layer) => layer.id === control.undo.id);
    const restore = chain.restores.find((candidate) => candidate.id === control.id);
    assert(restore !== undefined, 'the record of a restore is applied once');
    for (const volume of volumes) {
      const part = restore.parts[volume.index];
      if (part === undefined) continue;
      await this.#makeMap(restore, part, volume.name);
      for (const tracker of trackers)
        for (const run of part.toCome.runs()) tracker.noteChangedRun(volume.index, run);
    }
    const maps = volumes.map(
      ({ name }) => control.volumes.find((candidate) => candidate.name === name)?.restoration,
    );
    for (const link of links)
      link.noteRestore(restore.lsn, maps.every((map) => map !== undefined) ? maps : undefined);
    const undo = hasUndo ? this.#applyLayer(control.undo.id, UNDO_NAME) : () => {};
    const replaced =
      control.undo.replaces === null ? undefined : this.#recordName(control.undo.replaces, null);
    restore.applied = true;
    return () => {
      restore.applied = false;
      replaced?.();
      undo();
    };
  }

  /** The map of what is to come, on disk. */
  async #makeMap(restore: RestoreNode, part: RestorePart, volumeName: string): Promise<void> {
    const { folder } = this.#state;
    const name = restoreMapName(restore.id, volumeName);
    await part.disk?.close();
    part.disk = undefined;
    await folder.remove(name);
    const disk = await folder.create(name, DurableMap.bytesFor(part.toCome.length));
    part.disk = disk;
    const durable = DurableMap.blank(disk, 0, part.toCome.length);
    await durable.setRuns([...part.toCome.runs()]);
    part.durable = durable;
    part.toCome = durable.view;
  }
}

export function restoreMapName(restoreId: string, volumeName: string): string {
  return `restores/${restoreId}/${volumeName}.map`;
}
