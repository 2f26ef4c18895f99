/** Looks at what nodes show. */
import type { BlockDevice } from '../../../engine/block-device.ts';
import { EngineError } from '../../../engine/errors.ts';
import { CELL_BYTES, cellsOf } from '../cells.ts';
import { Violation } from '../image.ts';
import type { Cluster } from './cluster.ts';
import type { Cells } from './history.ts';
import type { SimNode } from './node.ts';

const SECTOR_BYTES = 512;

/** All that the devices show, read beside everything else. Undefined where somebody refused, or the process died. */
async function readAll(
  cluster: Cluster,
  devices: readonly (BlockDevice | undefined)[],
): Promise<Cells | undefined> {
  const all: Int32Array[] = [];
  for (const [volume, device] of devices.entries()) {
    if (device === undefined) return undefined;
    const bytes = Buffer.alloc((cluster.plan.volumeSectors[volume] ?? 0) * SECTOR_BYTES);
    await device.read(bytes, 0, bytes.length, 0);
    all.push(cellsOf(bytes.subarray(0, Math.floor(bytes.length / CELL_BYTES) * CELL_BYTES)));
  }
  return all;
}

const volumeNames = (cluster: Cluster): string[] => cluster.plan.volumeSectors.map((_, index) => `v${index}`);

/** Begins to look at everything that a node shows. What is read of a process that dies is never heard of again. */
export function beginCheck(cluster: Cluster, node: SimNode): void {
  const look = node.number === 0 ? checkPrimary(cluster, node) : checkSecondary(cluster, node);
  look.then(() => checkSnapshots(cluster, node)).catch((error: unknown) => excuse(cluster, node, error));
}

function excuse(cluster: Cluster, node: SimNode, error: unknown): void {
  if (error instanceof EngineError && (error.code === 'unavailable' || error.code === 'not-found')) {
    cluster.note(() => `node ${node.number}: a look was refused: ${error.message}`);
    return;
  }
  cluster.report(error);
}

async function checkPrimary(cluster: Cluster, node: SimNode): Promise<void> {
  const { group } = node;
  const { history } = cluster;
  if (group === undefined) return;
  const from = history.now;
  const found = await readAll(
    cluster,
    volumeNames(cluster).map((name) => group.volumes.get(name)),
  );
  if (found === undefined || node.group !== group) return;
  const wrong = history.explains(found, from, history.now);
  if (wrong !== undefined)
    throw new Violation(
      'read',
      `the primary shows no state from ${from} to ${history.now}: ${history.nearest(found, from)}`,
    );
}

/** Invariant 3. */
async function checkSecondary(cluster: Cluster, node: SimNode): Promise<void> {
  const { group } = node;
  const { history } = cluster;
  const before = group?.replica?.state();
  const shown = group?.replica?.shows;
  // Another look may end before this one, and have seen what came later.
  const { shownAt } = node;
  const promised = cluster.promises.of(node.number).state;
  if (group === undefined || before === undefined) return;
  const found = await readAll(
    cluster,
    volumeNames(cluster).map((name) => group.volumes.get(name)),
  );
  const after = group.replica?.state();
  if (found === undefined || node.group !== group || after === undefined) return;
  const isSame = shown?.image === group.replica?.shows.image && shown?.lsn === group.replica?.shows.lsn;
  const still = before.horizonLsn === after.horizonLsn && before.resyncing === after.resyncing && isSame;
  if (!still) {
    const youngest = Math.max(shownAt, cluster.youngest(node));
    const wrong = history.explains(found, shownAt, youngest);
    if (wrong === undefined) return;
    throw new Violation(
      '3 (replica)',
      `node ${node.number} shows cells of no state from ${shownAt} to ${youngest}: ${history.nearest(found, shownAt)}`,
    );
  }
  showsOneState(cluster, node, found);
  // What it shows now is all that it has, until the rest has come; on one that applies late that is older by the delay (K12).
  const isLate = (cluster.plan.secondaries[node.number - 1]?.applyDelaySeconds ?? 0) > 0;
  if (before.resyncing && !isLate && history.find(found, promised) === undefined)
    throw new Violation(
      '1 (K4)',
      `node ${node.number} lacks regions, and shows ${node.shownAt}; state ${promised} was acknowledged`,
    );
}

/** What a secondary shows while it stands still is one state, and none before the one that it showed last. */
export function showsOneState(cluster: Cluster, node: SimNode, found: Cells): void {
  const { history } = cluster;
  const number = history.find(found, node.shownAt);
  if (number === undefined) {
    const earlier = history.find(found, 0);
    const what =
      earlier === undefined
        ? history.nearest(found, node.shownAt)
        : `it is ${earlier}, and it showed ${node.shownAt} before`;
    throw new Violation(
      '3 (replica)',
      `node ${node.number} shows no state since ${node.shownAt} (${history.what(node.shownAt)}): ${what}`,
    );
  }
  cluster.note(() => `node ${node.number} shows ${number} of ${history.now}`);
  const youngest = cluster.youngest(node);
  if (number > Math.max(youngest, node.shownAt))
    throw new Violation(
      '3 (K12)',
      `node ${node.number} shows state ${number} (${history.what(number)}), and ${youngest} is the last that is as old as its delay`,
    );
  node.shownAt = number;
}

/** Invariant 4: every snapshot of a node is the group at its place in the order, and that node's own writes. */
async function checkSnapshots(cluster: Cluster, node: SimNode): Promise<void> {
  const { group } = node;
  for (const view of group?.snapshots ?? []) {
    const known = cluster.history.snapshots.get(view.imageId);
    if (node.group !== group || group === undefined) return;
    const devices = volumeNames(cluster).map((name) => group.snapshotVolume(view.name, name));
    const { begun, ended } = node.ownWrites;
    let found: Cells | undefined;
    try {
      found = await readAll(cluster, devices);
    } catch (error) {
      if (!(error instanceof EngineError) || error.code === 'disk' || error.code === 'corrupt') throw error;
      continue;
    }
    // It may have been deleted, or refreshed, meanwhile.
    const isStill = group.snapshots.some((one) => one.imageId === view.imageId && one.name === view.name);
    if (found === undefined || !isStill || node.group !== group) continue;
    if (known === undefined) {
      if (view.local) cluster.localImages.check(cluster, node, view, found);
      continue;
    }
    if (begun !== ended || begun !== node.ownWrites.begun || node.unsure.has(view.imageId)) continue;
    const image = node.number === 0 ? cluster.history.imageWithOwn(known) : withOwn(cluster, node, known.id);
    const wrong = difference(image, found);
    if (wrong !== undefined)
      throw new Violation(
        '4 (snapshot)',
        `node ${node.number}: snapshot ${view.name} (at ${known.position}): ${wrong}`,
      );
  }
}

function withOwn(cluster: Cluster, node: SimNode, id: string): Cells {
  const known = cluster.history.snapshots.get(id);
  const own = cluster.ownWrites.get(`${node.number} ${id}`);
  const image = known === undefined ? [] : cluster.history.image(known);
  return image.map((cells, volume) => {
    const all = Int32Array.from(cells);
    for (const [cell, value] of own?.[volume] ?? []) all[cell] = value;
    return all;
  });
}

function difference(expected: Cells, found: Cells): string | undefined {
  for (const [volume, cells] of expected.entries())
    for (let cell = 0; cell < cells.length; cell++)
      if (cells[cell] !== found[volume]?.[cell])
        return `v${volume}:${cell} is ${found[volume]?.[cell]}, and has to be ${cells[cell]}`;
  return undefined;
}

/** What the primary shows, after a crash, before anybody writes. */
export async function imageOf(cluster: Cluster, node: SimNode): Promise<Cells | undefined> {
  const { group } = node;
  if (group === undefined) return undefined;
  return await readAll(
    cluster,
    volumeNames(cluster).map((name) => group.volumes.get(name)),
  );
}
