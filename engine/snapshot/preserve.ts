/** Copy-on-write: what a volume is about to lose is copied into the newest layer first. */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import { addRegions, eachRegion, partOf, putRegion, storeOf, syncStore } from './region-copy.ts';
import type { RegionStore } from './region-store.ts';

/** For shorter runs it costs less to read them than to ask whether they are holes. */
const BLANK_RUN_REGIONS = 16;

/**
 * Keeps the raw content of regions for the snapshots among the nodes before `before`: in the newest layer there that is needed, unless one from
 * that on has it already. Rule S1, in this order: the copies, synced; the bits, durable; then the caller may overwrite. In the lane.
 */
export async function preserve(
  state: GroupState,
  volume: GroupVolume,
  regions: readonly RegionIndex[],
  before: number = state.chain.nodes.length,
): Promise<void> {
  const { chain } = state;
  const at = chain.receiver(before);
  const layer = chain.nodes[at];
  if (layer?.kind !== 'layer') return;
  const missing = regions.filter((region) => !chain.isPreserved(volume.index, region, at, before));
  if (missing.length === 0) return;
  const store = await storeOf(state, layer.id, partOf(layer, volume), volume, 'preserved');
  const blank = await keepBlanks(state, volume, store, missing);
  const rest = blank.size === 0 ? missing : missing.filter((region) => !blank.has(region));
  await eachRegion(state, rest, (region) => copyRaw(state, volume, store, region));
  await syncStore(store);
  await addRegions(store, missing);
  chain.noteChanged(volume.index, missing, at);
  state.counters.regionsPreserved += missing.length;
}

/** Long runs of regions that are holes: they are holes in the store too, and nothing is read (rule L11). Returns which they are. */
async function keepBlanks(
  state: GroupState,
  volume: GroupVolume,
  store: RegionStore,
  regions: readonly RegionIndex[],
): Promise<ReadonlySet<RegionIndex>> {
  const blank = new Set<RegionIndex>();
  for (let from = 0; from < regions.length; ) {
    const first = regions[from] ?? 0;
    let to = from + 1;
    while (regions[to] === first + to - from) to++;
    if (to - from >= BLANK_RUN_REGIONS) {
      const startBytes = first * state.regionBytes;
      const lengthBytes = Math.min(volume.sizeBytes, (first + to - from) * state.regionBytes) - startBytes;
      const [extent] = await volume.disk.extents(startBytes, lengthBytes, 1);
      if (extent?.zero === true && extent.lengthBytes === lengthBytes) {
        await store.punch(startBytes, lengthBytes);
        for (const region of regions.slice(from, to)) blank.add(region);
      }
    }
    from = to;
  }
  return blank;
}

async function copyRaw(
  state: GroupState,
  volume: GroupVolume,
  store: RegionStore,
  region: RegionIndex,
): Promise<void> {
  const lengthBytes = state.bytesOf(volume, region);
  const offsetBytes = region * state.regionBytes;
  const content = Buffer.allocUnsafe(lengthBytes);
  if (!volume.disk.tryRead(content, 0, lengthBytes, offsetBytes))
    await volume.disk.read(content, 0, lengthBytes, offsetBytes);
  await putRegion(store, content, offsetBytes);
}
