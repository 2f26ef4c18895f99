/** A secondary's own snapshots, which the primary knows nothing of: what its operator does with them, and what they show. */
import type { SnapshotView } from '../../../engine/snapshots.ts';
import { Violation } from '../image.ts';
import type { Cluster } from './cluster.ts';
import { type Cells, same } from './history.ts';
import type { SimNode } from './node.ts';

/** What each of them shows, by node and image, once it was looked at. Nobody writes through them. */
export class LocalImages {
  readonly #images = new Map<string, Cells>();

  /** One shows a state of the group, and always the same (invariant 4). */
  check(cluster: Cluster, node: SimNode, view: SnapshotView, found: Cells): void {
    const key = `${node.number} ${view.imageId}`;
    const known = this.#images.get(key);
    if (known === undefined && cluster.history.find(found, 0) === undefined)
      throw new Violation(
        '4 (snapshot)',
        `node ${node.number}: its own snapshot ${view.name} shows no state of the group: ${cluster.history.nearest(found, 0)}`,
      );
    if (known !== undefined && !same(known, found))
      throw new Violation(
        '4 (snapshot)',
        `node ${node.number}: its own snapshot ${view.name} shows something else than before`,
      );
    this.#images.set(key, found);
  }
}

export type LocalOperation = 'detach' | 'delete';

/** What an operator of a secondary does: he may detach what is his own, and delete whatever there is. What is refused is no bug. */
export async function changeThere(node: SimNode, what: LocalOperation, pick: number): Promise<void> {
  const { group } = node;
  if (group === undefined) return;
  const views = group.snapshots.filter(({ local }) => local || what === 'delete');
  const view = views[pick % Math.max(1, views.length)];
  if (view === undefined) return;
  await (what === 'detach' ? group.detachSnapshot(view.name) : group.deleteSnapshot(view.name));
}

/** Whether every snapshot of the primary that a secondary has is one that the primary still has (rules S4, K10). */
export function hasNoOther(primary: SimNode, node: SimNode): boolean {
  const identity = ({ id, imageId, name }: SnapshotView): string => `${id} ${imageId} ${name}`;
  const there = new Set(primary.group?.snapshots.map(identity));
  return node.group?.snapshots.every((view) => view.local || there.has(identity(view))) ?? false;
}
