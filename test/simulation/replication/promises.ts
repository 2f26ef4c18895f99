/**
 * What was acknowledged while links that block had to have it (rule K4). In `sync` nothing of it is missing from the secondary, whatever dies: its log has it
 * durably, and while regions come out of order what it shows has it. In `memory` the primary has it durably.
 */
import { Violation } from '../image.ts';
import type { Cluster } from './cluster.ts';
import type { LinkMode } from './plan.ts';

interface Promised {
  /** Number of the state of the group, and where the log of the primary ended with it. */
  readonly state: number;
  readonly lsn: number;
}

const NOTHING: Promised = { state: 0, lsn: 0 };

export class Promises {
  readonly #cluster: Cluster;
  readonly #byNode = new Map<number, Promised>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** The links that block now, by name. */
  holders(): ReadonlyMap<string, LinkMode> {
    const views = this.#cluster.group?.links.views() ?? [];
    const blocking = views.filter(({ mode, onLost }) => mode !== 'async' && onLost === 'block');
    return new Map(blocking.map(({ name, mode }) => [name, mode]));
  }

  /** The primary has just acknowledged what led to that state. `asked`: who blocked when that was asked for. Who does so only since then has no say. */
  acknowledged(what: string, state: number, lsn: number, asked: ReadonlyMap<string, LinkMode>): void {
    const { history } = this.#cluster;
    this.#cluster.note(() => `${what} is acknowledged: state ${state}, log up to ${lsn}`);
    for (const [name, mode] of this.holders()) {
      if (asked.get(name) !== mode) continue;
      history.durable = Math.max(history.durable, state);
      if (mode === 'memory') continue;
      const node = Number(name.slice(1));
      const before = this.of(node);
      this.#byNode.set(node, { state: Math.max(before.state, state), lsn: Math.max(before.lsn, lsn) });
    }
    try {
      this.look();
    } catch (error) {
      this.#cluster.report(error);
    }
  }

  /** What the secondary has to have. */
  of(node: number): Promised {
    return this.#byNode.get(node) ?? NOTHING;
  }

  /** Whether those secondaries have it that are up. */
  look(): void {
    for (const [node, { lsn }] of this.#byNode) {
      const durableLsn = this.#cluster.nodes[node]?.port?.state().durableLsn;
      if (durableLsn === undefined || durableLsn >= lsn) continue;
      const what = `node ${node} has the log durably up to ${durableLsn}, and everything up to ${lsn} was acknowledged`;
      throw new Violation('1 (K4)', what);
    }
  }
}
