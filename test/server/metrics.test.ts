/** What is read of groups when metrics are asked for. */
import t from 'tap';
import { Counters } from '../../server/counters.ts';
import { Metrics } from '../../server/metrics.ts';
import { Permits } from '../../server/permits.ts';
import { FakeGroup } from '../fixtures/fake-group.ts';

t.test('the figures of a group, and of its snapshots those of the oldest alone', async (t) => {
  const group = new FakeGroup('g', { v: 8192, w: 4096 });
  for (const name of ['a', 'b', 'c']) await group.createSnapshot(name);
  let counted = 0;
  group.snapshots = group.snapshots.map((snapshot, index) => ({
    ...snapshot,
    get volumes() {
      counted += 1;
      return [{ name: 'v', preservedRegions: 70 + index, modifiedRegions: 0 }];
    },
  }));
  group.stall = 'the disk is full';
  group.operations = [
    { id: '1', kind: 'restore', target: 'a', done: 3, total: 9, unit: 'regions' },
    { id: '2', kind: 'restore', target: 'b', done: 1, total: 2, unit: 'regions' },
    { id: '3', kind: 'detach', target: 'b', done: 5, total: 50, unit: 'regions' },
  ];
  const metrics = new Metrics({
    counters: new Counters(),
    permits: new Permits(1, 1),
    sessionCount: () => 0,
    connectionCount: () => 0,
    groups: () => [group],
  });
  const text = await metrics.text();
  for (const line of [
    'tidemark_volume_preserved_regions{group="g",volume="v"} 70',
    'tidemark_volume_preserved_regions{group="g",volume="w"} 0',
    'tidemark_volume_size_bytes{group="g",volume="v"} 8192',
    'tidemark_volume_written_regions{group="g",volume="w"} 0',
    'tidemark_volume_failed{group="g",volume="w"} 0',
    'tidemark_log_size_bytes{group="g"} 1048576',
    'tidemark_log_used_bytes{group="g"} 4096',
    'tidemark_log_pending_bytes{group="g"} 512',
    'tidemark_group_memory_limit_bytes{group="g"} 268435456',
    'tidemark_group_payload_bytes{group="g"} 512',
    'tidemark_group_index_bytes{group="g"} 320',
    'tidemark_group_map_bytes{group="g"} 4096',
    'tidemark_group_logged{group="g"} 1',
    'tidemark_group_failed{group="g"} 0',
    'tidemark_group_stalled{group="g"} 1',
    'tidemark_snapshots{group="g"} 3',
    'tidemark_restore_regions{group="g"} 11',
    'tidemark_restore_copied_regions{group="g"} 4',
    'tidemark_regions_preserved_total{group="g"} 3',
    'tidemark_regions_restored_total{group="g"} 2',
  ])
    t.ok(text.split('\n').includes(line), line);
  t.equal(counted, 1, 'counting takes time: the others are not asked');
});
