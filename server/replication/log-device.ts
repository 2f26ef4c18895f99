import { EngineError } from '../../engine/errors.ts';
import type { ReplicaPort } from '../../engine/link/peer.ts';
import { LOG_SECTOR_BYTES } from '../../engine/units.ts';
import { ReplicationDevice } from './replication-device.ts';

/** Where the last log ends, 2^62 - 512. An LSN is a safe integer, so that an offset of this export, 512 times one, is exact as a double. */
export const LOG_EXPORT_BYTES = Number.MAX_SAFE_INTEGER * LOG_SECTOR_BYTES;

/** The log of a secondary, as its primary writes it: the bytes of the log at 512 times their LSN, at the end and nowhere else. */
export class LogDevice extends ReplicationDevice {
  readonly sizeBytes = LOG_EXPORT_BYTES;
  readonly #port: ReplicaPort;
  readonly #session: number;

  constructor(port: ReplicaPort, session: number) {
    super();
    this.#port = port;
    this.#session = session;
  }

  override write(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    const lsn = offsetBytes / LOG_SECTOR_BYTES;
    const bytes = source.subarray(sourceStart, sourceStart + lengthBytes);
    return this.call(async () => {
      if (!Number.isSafeInteger(lsn))
        throw new EngineError('invalid', `an append at ${offsetBytes} bytes, where no LSN can be`);
      await this.#port.append(this.#session, lsn, bytes);
    });
  }

  override flush(): Promise<void> {
    return this.callAfterAll(() => this.#port.sync(this.#session));
  }
}
