/** What is read of groups when metrics are asked for. */
import t from 'tap';
import { Counters } from '../../server/counters.ts';
import { Metrics } from '../../server/metrics.ts';
import { Permits } from '../../server/permits.ts';
import { FakeGroup } from '../fixtures/fake-group.ts';
import { FakeFedReplica, FakeLinks } from '../fixtures/fake-links.ts';

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

t.test('the figures of links and of a secondary', async (t) => {
  const group = new FakeGroup('g', { v: 8192 });
  const links = new FakeLinks();
  group.links = links;
  await links.add({ name: 'a', uri: 'nbd://a' });
  await links.add({ name: 'b', uri: 'nbd://b' });
  links.change('a', {
    state: 'streaming',
    lagBytes: 512,
    lagRecords: 3,
    lagSeconds: 1.5,
    dcmRegions: 0,
    bytesShipped: 1000,
    regionsResynced: 2,
    bytesResynced: 8192,
    secondsLeft: 4,
  });
  links.change('b', { lagRecords: undefined });
  const secondary = new FakeGroup('h', { v: 8192 });
  const replica = new FakeFedReplica();
  replica.applyDelaySeconds = 60;
  replica.frozen = true;
  replica.shows = { image: 'guard', lsn: 3, untilMs: undefined };
  secondary.replica = replica;
  const metrics = new Metrics({
    counters: new Counters(),
    permits: new Permits(1, 1),
    sessionCount: () => 0,
    connectionCount: () => 0,
    groups: () => [group, secondary],
  });
  const lines = (await metrics.text()).split('\n');
  for (const line of [
    'tidemark_link_streaming{group="g",link="a"} 1',
    'tidemark_link_streaming{group="g",link="b"} 0',
    'tidemark_link_connected{group="g",link="a"} 0',
    'tidemark_link_lag_bytes{group="g",link="a"} 512',
    'tidemark_link_lag_records{group="g",link="a"} 3',
    'tidemark_link_lag_seconds{group="g",link="a"} 1.5',
    'tidemark_link_marked_regions{group="g",link="b"} 16',
    'tidemark_link_seconds_left{group="g",link="a"} 4',
    'tidemark_link_shipped_bytes_total{group="g",link="a"} 1000',
    'tidemark_link_resynced_bytes_total{group="g",link="a"} 8192',
    'tidemark_link_resynced_regions_total{group="g",link="a"} 2',
    'tidemark_replica_connected{group="h"} 0',
    'tidemark_replica_frozen{group="h"} 1',
    'tidemark_replica_resyncing{group="h"} 0',
    'tidemark_replica_shows_volumes{group="h"} 0',
    'tidemark_replica_apply_delay_seconds{group="h"} 60',
    `tidemark_replica_held_bytes{group="h"} ${32 * 512}`,
    `tidemark_replica_received_bytes_total{group="h"} ${secondary.counters.bytesReceived}`,
    `tidemark_replica_received_regions_total{group="h"} ${secondary.counters.regionsResynced}`,
  ])
    t.ok(lines.includes(line), line);
  const unknown = 'tidemark_link_lag_records{group="g",link="b"}';
  t.notOk(
    lines.some((line) => line.startsWith(unknown)),
    'what is not known is not told',
  );
  await links.remove('a');
  t.notMatch(await metrics.text(), 'link="a"');
});
