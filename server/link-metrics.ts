/** Metrics of links, and of secondaries, read when somebody asks. Labels are groups and links, so that the series are those that were created here. */
import { Counter, Gauge, type Registry } from 'prom-client';
import { LOG_SECTOR_BYTES } from '../engine/units.ts';
import type { GroupControl } from './group-control.ts';
import type { LinkView, ReplicaControl } from './link-control.ts';

/** What is read of a group. */
export type LinkedGroup = Pick<GroupControl, 'name' | 'links' | 'replica' | 'counters'>;

interface Figure<Subject> {
  readonly name: string;
  readonly help: string;
  /** Undefined: it cannot be told, and is left out. */
  readonly read: (subject: Subject) => number | undefined;
}

const LINK_GAUGES: readonly Figure<LinkView>[] = [
  {
    name: 'tidemark_link_streaming',
    help: '1 while a secondary gets everything through the log.',
    read: ({ state }) => (state === 'streaming' ? 1 : 0),
  },
  {
    name: 'tidemark_link_connected',
    help: '1 while the secondary of a link answers.',
    read: ({ peer }) => (peer === undefined ? 0 : 1),
  },
  {
    name: 'tidemark_link_lag_bytes',
    help: 'Bytes of the log that a secondary does not have.',
    read: ({ lagBytes }) => lagBytes,
  },
  {
    name: 'tidemark_link_lag_records',
    help: 'Records that a secondary does not have, about.',
    read: ({ lagRecords }) => lagRecords,
  },
  {
    name: 'tidemark_link_lag_seconds',
    help: 'Age of the oldest record that a secondary does not have.',
    read: ({ lagSeconds }) => lagSeconds,
  },
  {
    name: 'tidemark_link_marked_regions',
    help: 'Regions that a secondary lacks, beside the log.',
    read: ({ dcmRegions }) => dcmRegions,
  },
  {
    name: 'tidemark_link_seconds_left',
    help: 'Time until nothing is left to send, at the present rate.',
    read: ({ secondsLeft }) => secondsLeft,
  },
];

const LINK_COUNTERS: readonly Figure<LinkView>[] = [
  {
    name: 'tidemark_link_shipped_bytes_total',
    help: 'Bytes of the log sent over a link.',
    read: ({ bytesShipped }) => bytesShipped,
  },
  {
    name: 'tidemark_link_resynced_bytes_total',
    help: 'Bytes of regions sent over a link.',
    read: ({ bytesResynced }) => bytesResynced,
  },
  {
    name: 'tidemark_link_resynced_regions_total',
    help: 'Regions sent over a link.',
    read: ({ regionsResynced }) => regionsResynced,
  },
];

interface Secondary {
  readonly replica: ReplicaControl;
  readonly counters: GroupControl['counters'];
}

const REPLICA_GAUGES: readonly Figure<Secondary>[] = [
  {
    name: 'tidemark_replica_connected',
    help: '1 while the link that feeds a secondary is connected.',
    read: ({ replica }) => (replica.connected ? 1 : 0),
  },
  {
    name: 'tidemark_replica_frozen',
    help: '1 while its operator keeps a secondary from applying.',
    read: ({ replica }) => (replica.frozen ? 1 : 0),
  },
  {
    name: 'tidemark_replica_resyncing',
    help: '1 while regions come to a secondary out of order.',
    read: ({ replica }) => (replica.state().resyncing ? 1 : 0),
  },
  {
    name: 'tidemark_replica_shows_volumes',
    help: '0 while readers of a secondary get the image from before a resync, or nothing.',
    read: ({ replica }) => (replica.shows.image === 'volumes' ? 1 : 0),
  },
  {
    name: 'tidemark_replica_apply_delay_seconds',
    help: 'How much later a secondary applies what comes.',
    read: ({ replica }) => replica.applyDelaySeconds,
  },
  {
    name: 'tidemark_replica_held_bytes',
    help: 'Bytes of the log that a secondary has received, and that are not part of its volumes.',
    read: ({ replica }) => {
      const { endLsn, horizonLsn } = replica.state();
      return (endLsn - horizonLsn) * LOG_SECTOR_BYTES;
    },
  },
];

const REPLICA_COUNTERS: readonly Figure<Secondary>[] = [
  {
    name: 'tidemark_replica_received_bytes_total',
    help: 'Bytes that came to a secondary, of the log and of regions.',
    read: ({ counters }) => counters.bytesReceived,
  },
  {
    name: 'tidemark_replica_received_regions_total',
    help: 'Regions that came to a secondary out of order.',
    read: ({ counters }) => counters.regionsResynced,
  },
];

export function addLinkMetrics(registry: Registry, groups: () => readonly LinkedGroup[]): void {
  const links = function* (): Generator<[{ group: string; link: string }, LinkView]> {
    for (const { name, links } of groups())
      for (const view of links?.views() ?? []) yield [{ group: name, link: view.name }, view];
  };
  const secondaries = function* (): Generator<[{ group: string }, Secondary]> {
    for (const { name, replica, counters } of groups())
      if (replica !== undefined) yield [{ group: name }, { replica, counters }];
  };
  for (const figure of LINK_GAUGES) addGauge(registry, ['group', 'link'], figure, links);
  for (const figure of LINK_COUNTERS) addCounter(registry, ['group', 'link'], figure, links);
  for (const figure of REPLICA_GAUGES) addGauge(registry, ['group'], figure, secondaries);
  for (const figure of REPLICA_COUNTERS) addCounter(registry, ['group'], figure, secondaries);
}

type Subjects<Label extends string, Subject> = () => Iterable<[Record<Label, string>, Subject]>;

function addGauge<Label extends string, Subject>(
  registry: Registry,
  labelNames: Label[],
  { name, help, read }: Figure<Subject>,
  subjects: Subjects<Label, Subject>,
): void {
  const gauge: Gauge<Label> = new Gauge({
    name,
    help,
    labelNames,
    registers: [registry],
    collect: () => {
      gauge.reset();
      for (const [labels, subject] of subjects()) {
        const value = read(subject);
        if (value !== undefined) gauge.set(labels, value);
      }
    },
  });
}

function addCounter<Label extends string, Subject>(
  registry: Registry,
  labelNames: Label[],
  { name, help, read }: Figure<Subject>,
  subjects: Subjects<Label, Subject>,
): void {
  const counter: Counter<Label> = new Counter({
    name,
    help,
    labelNames,
    registers: [registry],
    collect: () => {
      counter.reset();
      for (const [labels, subject] of subjects()) counter.inc(labels, read(subject) ?? 0);
    },
  });
}
