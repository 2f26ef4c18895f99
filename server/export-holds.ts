/**
 * What is being done to exports right now, and who is kept away from them meanwhile (rule T4): the guard (use-guard.ts) looks who is there, and
 * nobody comes between its look and the change. Whoever is about to use an export asks here.
 */
import { EngineError } from '../engine/errors.ts';

/**
 * Who may not come: devices, because they cache; sessions that may write, too; when the export goes away or becomes another one, everybody. Each
 * includes the one before.
 */
export type KeptOut = 'devices' | 'writers' | 'everybody';

interface Held {
  /** As in `restoring db@monday`. */
  readonly what: string;
  readonly keptOut: KeptOut;
}

export class ExportHolds {
  readonly #held = new Map<string, Held>();
  /** Exports that devices are being attached to, with their number. */
  readonly #attaching = new Map<string, number>();

  /** Holds all of them, or none: throws `in-use` while one is held, or being attached to a device. What it returns lets go of them. */
  take(what: string, exports: ReadonlyMap<string, KeptOut>): () => void {
    for (const name of exports.keys()) {
      this.refuseWhileHeld(name);
      if (this.#attaching.has(name)) throw beingAttached(name);
    }
    for (const [name, keptOut] of exports) this.#held.set(name, { what, keptOut });
    return () => {
      for (const name of exports.keys()) this.#held.delete(name);
    };
  }

  /** Throws `in-use` while the export is held: a device that came now would cache what is about to change. */
  refuseWhileHeld(exportName: string): void {
    const held = this.#held.get(exportName);
    if (held !== undefined)
      throw new EngineError(
        'in-use',
        `${exportName} cannot be used while ${held.what}: try again in a moment`,
      );
  }

  /** Why a client may not open the export now; undefined when it may. */
  refusalOf(exportName: string, mayWrite: boolean): string | undefined {
    const held = this.#held.get(exportName);
    if (held === undefined || held.keptOut === 'devices') return undefined;
    if (held.keptOut === 'writers' && !mayWrite) return undefined;
    return `${exportName} cannot be opened while ${held.what}: try again in a moment`;
  }

  /** Attaches a device to an export that is not held; none is held before it is there. Throws `in-use`. */
  async whileAttaching<Result>(exportName: string, attach: () => Promise<Result>): Promise<Result> {
    this.refuseWhileHeld(exportName);
    this.#attaching.set(exportName, (this.#attaching.get(exportName) ?? 0) + 1);
    try {
      return await attach();
    } finally {
      const others = (this.#attaching.get(exportName) ?? 0) - 1;
      if (others > 0) this.#attaching.set(exportName, others);
      else this.#attaching.delete(exportName);
    }
  }

  /** Throws `in-use` while a device is being attached to exports that the predicate means. */
  refuseWhileAttaching(isMeant: (exportName: string) => boolean): void {
    for (const name of this.#attaching.keys()) if (isMeant(name)) throw beingAttached(name);
  }
}

function beingAttached(exportName: string): EngineError {
  return new EngineError('in-use', `${exportName} is being attached to a device: try again in a moment`);
}
