/** The region map: marked on every write, OR-ed and counted by snapshots and links. For a volume of 1 TiB in regions of 64 KiB. */
import { bench, do_not_optimize, group, summary } from 'mitata';
import { RegionMap } from '../../engine/map/region-map.ts';
import { generator } from '../lib/random.ts';

const REGIONS = 2 ** 24;
/** Random regions to mark, drawn beforehand. A power of two. */
const DRAWN = 2 ** 16;

/** A map of which every page holds something: about `share` of all regions are set. */
function filled(share: number): RegionMap {
  const map = new RegionMap(REGIONS);
  const random = generator(1);
  for (let count = Math.floor(REGIONS * share); count > 0; count -= 1)
    map.set(Math.floor(random() * REGIONS));
  return map;
}

export function benchRegionMap(): void {
  const random = generator(2);
  const drawn = Array.from({ length: DRAWN }, () => Math.floor(random() * REGIONS));
  let next = 0;
  const region = (): number => {
    next = (next + 1) % DRAWN;
    return drawn[next] ?? 0;
  };

  group('mark one region', () => {
    summary(() => {
      const map = new RegionMap(REGIONS);
      bench('region map, set before', () => map.set(drawn[0] ?? 0)).baseline(true);
      bench('region map, anywhere', () => map.set(region()));
      const set = new Set<number>();
      bench('Set of numbers, anywhere', () => set.add(region()));
    });
  });
  group('mark the regions of one write of 1 MiB', () => {
    const map = new RegionMap(REGIONS);
    bench('setRange of 16', () => {
      const first = Math.min(region(), REGIONS - 16);
      map.setRange(first, first + 16);
    });
  });
  group('whole maps of 16,777,216 regions', () => {
    for (const share of [0.0001, 0.1]) {
      const map = filled(share);
      const other = filled(share);
      const name = `${share * 100} % set`;
      bench(`OR, ${name}`, () => map.or(other));
      bench(`count, ${name}`, () => do_not_optimize(map.countRange(1, REGIONS)));
      bench(`every set region, ${name}`, () => {
        let found = 0;
        for (let at = map.nextSet(0); at < REGIONS; at = map.nextSet(at + 1)) found += 1;
        return do_not_optimize(found);
      });
    }
  });
}
