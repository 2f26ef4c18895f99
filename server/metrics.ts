/**
 * Metrics for Prometheus. The data path counts in plain numbers; they are read when somebody asks. Labels are volumes and
 * request types only, so that the number of series is bounded by what was created here.
 */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { GroupStatus } from './control/schemas.ts';
import { type Counters, REQUEST_NAMES } from './counters.ts';
import type { Permits } from './permits.ts';

export interface MetricsSource {
  readonly counters: Counters;
  readonly permits: Permits;
  /** Sessions in transmission. */
  sessionCount(): number;
  /** Connections, handshakes included. */
  connectionCount(): number;
  groups(): readonly GroupStatus[];
}

export class Metrics {
  readonly #registry = new Registry();
  readonly #source: MetricsSource;
  readonly #size: Gauge<'group' | 'volume'>;
  readonly #written: Gauge<'group' | 'volume'>;
  readonly #failed: Gauge<'group' | 'volume'>;

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
    for (const gauge of [this.#size, this.#written, this.#failed]) gauge.reset();
    for (const group of this.#source.groups()) {
      for (const volume of group.volumes) {
        const labels = { group: group.name, volume: volume.name };
        this.#size.set(labels, volume.size);
        this.#written.set(labels, volume.writtenRegions);
        this.#failed.set(labels, volume.failure === null ? 0 : 1);
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

  #gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({
      name,
      help,
      registers: [this.#registry],
      collect: () => gauge.set(read()),
    });
  }
}
