import type { BlockDevice } from '../../engine/block-device.ts';
import type { DiskExtent } from '../../engine/disk/disk.ts';
import { EngineError } from '../../engine/errors.ts';
import { SECTOR_BYTES } from '../../engine/group-spec.ts';
import { forTheWire } from './wire-errors.ts';

/**
 * What the kinds of export between nodes have in common: they are no disks, and refuse what only a disk could do. Each write is a job, and `write` is called
 * in the order in which requests came.
 */
export abstract class ReplicationDevice implements BlockDevice {
  abstract readonly sizeBytes: number;
  readonly regionBytes: number = SECTOR_BYTES;
  readonly readOnly = false;
  readonly failure = undefined;
  /** What came and is not carried out yet: a flush waits for it, because a primary syncs what it has sent, and not only what was answered. */
  readonly #underWay = new Set<Promise<void>>();

  tryRead(_target: Buffer, _targetStart: number, _lengthBytes: number, _offsetBytes: number): boolean {
    return false;
  }

  read(_target: Buffer, _targetStart: number, _lengthBytes: number, _offsetBytes: number): Promise<void> {
    return refused('this export cannot be read');
  }

  tryWrite(): boolean {
    return false;
  }

  abstract write(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void>;

  settle(): void {
    // Nothing is taken at once.
  }

  readonly holdsReplies = false;

  acknowledged(): Promise<void> {
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return refused('this export has nothing to flush');
  }

  trim(_offsetBytes: number, _lengthBytes: number): Promise<void> {
    return refused('this export cannot be trimmed');
  }

  writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.trim(offsetBytes, lengthBytes);
  }

  prefetch(): Promise<void> {
    return refused('this export has no cache');
  }

  allocation(_offsetBytes: number, _lengthBytes: number, _maxExtents: number): Promise<DiskExtent[]> {
    return refused('this export has no extents');
  }

  /** Runs a call of the port; refusals get an error of NBD. */
  protected call(run: () => Promise<void>): Promise<void> {
    const work = asked(run);
    this.#underWay.add(work);
    const ended = (): void => void this.#underWay.delete(work);
    work.then(ended, ended);
    return work;
  }

  /** As `call`, after all that came before has ended, well or not: who waits for those is told by their own replies. */
  protected async callAfterAll(run: () => Promise<void>): Promise<void> {
    await Promise.allSettled([...this.#underWay]);
    await asked(run);
  }
}

async function asked(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    throw forTheWire(error);
  }
}

function refused(why: string): Promise<never> {
  return Promise.reject(new EngineError('invalid', why, { errno: 'EINVAL' }));
}
