/**
 * Metrics for Prometheus. The data path counts in plain numbers; they are read when somebody asks. Labels are volumes, links and
 * request types only, so that the number of series is bounded by what was created here.
 */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { type Counters, REQUEST_NAMES } from './counters.ts';
import type { GroupControl } from './group-control.ts';
import { addLinkMetrics, type LinkedGroup } from './link-metrics.ts';
import type { Permits } from './permits.ts';

/** What is read of a group. */
export type MeasuredGroup = Pick<
  GroupControl,
  | 'name'
  | 'mode'
  | 'failure'
  | 'stall'
  | 'log'
  | 'memory'
  | 'counters'
  | 'volumes'
  | 'snapshots'
  | 'operations'
> &
  LinkedGroup;

interface GroupGauge {
  readonly gauge: Gauge<'group'>;
  readonly read: (group: MeasuredGroup) => number;
}

const GROUP_FIGURES: readonly {
  readonly name: string;
  readonly help: string;
  readonly read: (group: MeasuredGroup) => number;
}[] = [
  {
    name: 'tidemark_log_size_bytes',
    help: 'Size of the log of a group.',
    read: (group) => group.log.sizeBytes,
  },
  {
    name: 'tidemark_log_used_bytes',
    help: 'Bytes of the log that cannot be used again yet.',
    read: (group) => group.log.usedBytes,
  },
  {
    name: 'tidemark_log_pending_bytes',
    help: 'Bytes that are logged and not applied.',
    read: (group) => group.log.pendingBytes,
  },
  {
    name: 'tidemark_group_memory_limit_bytes',
    help: 'Memory for maps, and for what is logged and not applied.',
    read: (group) => group.memory.limitBytes,
  },
  {
    name: 'tidemark_group_payload_bytes',
    help: 'Of it, payload of what is logged and not applied.',
    read: (group) => group.memory.payloadBytes,
  },
  {
    name: 'tidemark_group_index_bytes',
    help: 'Of it, the index of what is logged and not applied.',
    read: (group) => group.memory.indexBytes,
  },
  {
    name: 'tidemark_group_map_bytes',
    help: 'Of it, maps of snapshots, restores and links.',
    read: (group) => group.memory.mapBytes,
  },
  {
    name: 'tidemark_group_logged',
    help: '1 while a group logs, 0 while it writes straight to its volumes.',
    read: (group) => (group.mode === 'logged' ? 1 : 0),
  },
  {
    name: 'tidemark_group_failed',
    help: '1 when a group takes no more writes.',
    read: (group) => (group.failure === undefined ? 0 : 1),
  },
  {
    name: 'tidemark_group_stalled',
    help: '1 while what is logged cannot be applied.',
    read: (group) => (group.stall === undefined ? 0 : 1),
  },
  {
    name: 'tidemark_links_out_of_mode',
    help: 'Links of a group that are not in their mode, so that their policy for a lost connection holds.',
    read: (group) => acknowledging(group).filter(({ inMode }) => !inMode).length,
  },
  {
    name: 'tidemark_held_requests',
    help: 'Requests whose acknowledgement waits for links.',
    read: (group) => Math.max(0, ...acknowledging(group).map(({ heldRequests }) => heldRequests)),
  },
  { name: 'tidemark_snapshots', help: 'Snapshots of a group.', read: (group) => group.snapshots.length },
  {
    name: 'tidemark_restore_regions',
    help: 'Regions of the restores of a group that are under way.',
    read: (group) => restoring(group, 'total'),
  },
  {
    name: 'tidemark_restore_copied_regions',
    help: 'Of these, the regions that are copied.',
    read: (group) => restoring(group, 'done'),
  },
];

const GROUP_COUNTERS: readonly {
  readonly name: string;
  readonly help: string;
  readonly read: (counters: GroupControl['counters']) => number;
}[] = [
  {
    name: 'tidemark_regions_preserved_total',
    help: 'Regions copied to a snapshot before they were overwritten.',
    read: (counters) => counters.regionsPreserved,
  },
  {
    name: 'tidemark_regions_restored_total',
    help: 'Regions copied by restores.',
    read: (counters) => counters.regionsRestored,
  },
];

function acknowledging({ links }: MeasuredGroup) {
  return (links?.views() ?? []).map((view) => view.acknowledging);
}

function restoring(group: MeasuredGroup, figure: 'done' | 'total'): number {
  const restores = group.operations.filter((operation) => operation.kind === 'restore');
  return restores.reduce((sum, operation) => sum + operation[figure], 0);
}

export interface MetricsSource {
  readonly counters: Counters;
  readonly permits: Permits;
  /** Sessions in transmission. */
  sessionCount(): number;
  /** Connections, handshakes included. */
  connectionCount(): number;
  /** Those that are open. */
  groups(): readonly MeasuredGroup[];
}

export class Metrics {
  readonly #registry = new Registry();
  readonly #source: MetricsSource;
  readonly #size: Gauge<'group' | 'volume'>;
  readonly #written: Gauge<'group' | 'volume'>;
  readonly #failed: Gauge<'group' | 'volume'>;
  readonly #groupGauges: readonly GroupGauge[];
  readonly #preserved: Gauge<'group' | 'volume'>;

  constructor(source: MetricsSource) {
    this.#source = source;
    collectDefaultMetrics({ register: this.#registry });
    this.#addTraffic(source);
    this.#addState(source);
    this.#size = this.#volumeGauge('tidemark_volume_size_bytes', 'Size of a volume.');
    this.#written = this.#volumeGauge(
      'tidemark_volume_written_regions',
      'Regions of a volume written since its creation.',
    );
    this.#failed = this.#volumeGauge('tidemark_volume_failed', '1 when a volume takes no more writes.');
    this.#preserved = this.#volumeGauge(
      'tidemark_volume_preserved_regions',
      'Regions of a volume changed since its oldest snapshot.',
    );
    for (const { name, help, read } of GROUP_COUNTERS) this.#groupCounter(name, help, read);
    addLinkMetrics(this.#registry, () => source.groups());
    this.#groupGauges = GROUP_FIGURES.map(({ name, help, read }) => ({
      gauge: new Gauge({ name, help, labelNames: ['group'], registers: [this.#registry] }),
      read,
    }));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    this.#readVolumes();
    return this.#registry.metrics();
  }

  #addTraffic({ counters }: MetricsSource): void {
    const requests = new Counter({
      name: 'tidemark_requests_total',
      help: 'NBD requests received, by type.',
      labelNames: ['type'],
      registers: [this.#registry],
      collect: () => {
        requests.reset();
        for (const [number, type] of [...REQUEST_NAMES, 'unknown'].entries()) {
          requests.inc({ type }, counters.requests[number] ?? 0);
        }
      },
    });
    this.#counter('tidemark_read_bytes_total', 'Bytes read by NBD clients.', () => counters.bytesRead);
    this.#counter(
      'tidemark_written_bytes_total',
      'Bytes written by NBD clients.',
      () => counters.bytesWritten,
    );
    this.#counter(
      'tidemark_request_errors_total',
      'NBD requests answered with an error.',
      () => counters.errors,
    );
    this.#counter(
      'tidemark_requests_waited_total',
      'Reads and writes that the page cache could not serve at once.',
      () => counters.waited,
    );
  }

  #addState(source: MetricsSource): void {
    const { permits } = source;
    this.#gauge('tidemark_sessions', 'NBD sessions in transmission.', () => source.sessionCount());
    this.#gauge('tidemark_connections', 'NBD connections, handshakes included.', () =>
      source.connectionCount(),
    );
    this.#gauge(
      'tidemark_permit_bytes',
      'Bytes that large requests may hold together.',
      () => permits.totalBytes,
    );
    this.#gauge(
      'tidemark_permit_held_bytes',
      'Bytes that large requests hold now.',
      () => permits.totalBytes - permits.freeBytes,
    );
    this.#gauge('tidemark_permit_waiting', 'Requests that wait for permits.', () => permits.waiting);
  }

  #volumeGauge(name: string, help: string): Gauge<'group' | 'volume'> {
    return new Gauge({ name, help, labelNames: ['group', 'volume'], registers: [this.#registry] });
  }

  #readVolumes(): void {
    for (const gauge of [this.#size, this.#written, this.#failed, this.#preserved]) gauge.reset();
    for (const { gauge } of this.#groupGauges) gauge.reset();
    for (const group of this.#source.groups()) {
      for (const { gauge, read } of this.#groupGauges) gauge.set({ group: group.name }, read(group));
      // Of the oldest alone: each snapshot counts its maps when it is asked.
      const changed = group.snapshots[0]?.volumes;
      for (const volume of group.volumes.values()) {
        const labels = { group: group.name, volume: volume.name };
        this.#size.set(labels, volume.sizeBytes);
        this.#written.set(labels, volume.written.count);
        this.#failed.set(labels, volume.failure === undefined ? 0 : 1);
        const sinceOldest = changed?.find(({ name }) => name === volume.name);
        this.#preserved.set(labels, sinceOldest?.preservedRegions ?? 0);
      }
    }
  }

  #counter(name: string, help: string, read: () => number): void {
    const counter: Counter = new Counter({
      name,
      help,
      registers: [this.#registry],
      collect: () => {
        counter.reset();
        counter.inc(read());
      },
    });
  }

  #groupCounter(name: string, help: string, read: (typeof GROUP_COUNTERS)[number]['read']): void {
    const counter: Counter<'group'> = new Counter({
      name,
      help,
      labelNames: ['group'],
      registers: [this.#registry],
      collect: () => {
        counter.reset();
        for (const group of this.#source.groups()) counter.inc({ group: group.name }, read(group.counters));
      },
    });
  }

  #gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({
      name,
      help,
      registers: [this.#registry],
      collect: () => gauge.set(read()),
    });
  }
}
