/** What takes time in a group, for people to follow: restores, detaching, refreshing, removing, the replay after a start, imports. */
import type { GroupState } from './group-state.ts';
import type { Applier } from './log/applier.ts';
import { detachProgress } from './snapshot/detach.ts';
import { LOG_SECTOR_BYTES, type Lsn } from './units.ts';

export interface OperationView {
  readonly id: string;
  readonly kind: 'restore' | 'replay' | 'detach' | 'refresh' | 'delete' | 'import' | 'verify';
  /** A snapshot's, volume's or link's name. */
  readonly target: string;
  readonly done: number;
  readonly total: number;
  readonly unit: 'regions' | 'bytes';
  /** What holds it up, where it knows of something beside what holds up the group. */
  readonly waitsFor?: string | undefined;
}

export class Operations {
  readonly #state: GroupState;
  readonly #applier: Applier;
  readonly #others = new Map<string, OperationView>();
  /** What the log held when the group was opened. */
  #replay: { readonly from: Lsn; readonly to: Lsn } | undefined;

  constructor(state: GroupState, applier: Applier) {
    this.#state = state;
    this.#applier = applier;
  }

  /** Up to `to`. */
  beginReplay(to: Lsn): void {
    const { checkpointLsn, emit } = this.#state;
    this.#replay = { from: checkpointLsn, to };
    const bytes = (to - checkpointLsn) * LOG_SECTOR_BYTES;
    emit({
      type: 'recovery.started',
      message: `the log holds ${bytes} bytes that are applied now`,
      data: { bytes },
    });
  }

  /** The applier went on. */
  applied(): void {
    if (this.#replay === undefined || this.#applier.appliedLsn < this.#replay.to) return;
    this.#replay = undefined;
    this.#state.emit({ type: 'recovery.completed', message: 'what the log held at the start is applied' });
  }

  /** Runs work that is shown while it lasts; it tells how far it is. */
  async during<T>(
    kind: OperationView['kind'],
    target: string,
    total: number,
    unit: OperationView['unit'],
    work: (progress: (done: number) => void) => Promise<T>,
  ): Promise<T> {
    const id = this.#state.newId();
    const progress = (done: number): void => {
      this.#others.set(id, { id, kind, target, done, total, unit });
    };
    progress(0);
    try {
      return await work(progress);
    } finally {
      this.#others.delete(id);
    }
  }

  get views(): OperationView[] {
    return [...this.#replayViews(), ...this.#chainViews(), ...this.#refreshViews(), ...this.#others.values()];
  }

  #replayViews(): OperationView[] {
    if (this.#replay === undefined) return [];
    const { from, to } = this.#replay;
    const [done, total] = [this.#applier.appliedLsn - from, to - from].map((lsns) => lsns * LOG_SECTOR_BYTES);
    return [
      {
        id: 'replay',
        kind: 'replay',
        target: this.#state.record.name,
        done: done ?? 0,
        total: total ?? 0,
        unit: 'bytes',
      },
    ];
  }

  #chainViews(): OperationView[] {
    const views: OperationView[] = [];
    for (const node of this.#state.chain.nodes) {
      if (node.kind === 'restore') {
        const { id, total } = node;
        const target = this.#nameOf(node.source.id);
        views.push({ id, kind: 'restore', target, done: total - node.toComeCount, total, unit: 'regions' });
      } else if (node.detaching) {
        const target = node.name ?? node.id;
        views.push({
          id: node.id,
          kind: 'detach',
          target,
          ...detachProgress(this.#state, node),
          unit: 'regions',
        });
      } else if (node.applied && !node.needed) {
        const total = node.parts.reduce((sum, part) => sum + (part.preserved?.map.count ?? 0), 0);
        views.push({ id: node.id, kind: 'delete', target: node.id, done: 0, total, unit: 'regions' });
      }
    }
    return views;
  }

  #refreshViews(): OperationView[] {
    const views: OperationView[] = [];
    for (const snapshot of this.#state.detached) {
      const parts = snapshot.refresh?.parts;
      if (parts === undefined) continue;
      const total = parts.reduce((sum, part) => sum + part.total, 0);
      const left = parts.reduce((sum, part) => sum + part.toCome.count, 0);
      const target = snapshot.name ?? snapshot.id;
      views.push({ id: snapshot.epoch, kind: 'refresh', target, done: total - left, total, unit: 'regions' });
    }
    return views;
  }

  #nameOf(id: string): string {
    const { chain, detached } = this.#state;
    const found =
      detached.find((snapshot) => snapshot.id === id) ?? chain.layers.find((layer) => layer.id === id);
    return found?.name ?? id;
  }
}
