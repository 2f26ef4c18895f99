import type { Disk } from '../disk/disk.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import type { LogIdentity } from './record.ts';
import { pageAligned, Ring } from './ring.ts';
import { type LogState, Superblocks } from './superblock.ts';

/** What lies at the end of a log is no header from here on (rule L5). Up to a page, so that the kernel reads none. To be synced. */
export async function spoilHeader(ring: Ring, endLsn: Lsn): Promise<void> {
  const sectors = Math.max(1, pageAligned(endLsn) - endLsn);
  await ring.write(endLsn, Buffer.alloc(sectors * LOG_SECTOR_BYTES));
}

/**
 * Begins a log anew in the ring of another: empty, at `lsn`, after a batch with checksum `chain`. Durable when it resolves. A crash in between leaves
 * a log that cannot be opened: who calls has noted before, elsewhere, that it is to be so, and does it again.
 */
export async function restartDisk(
  disk: Disk,
  identity: LogIdentity,
  lsn: Lsn,
  chain: number,
  ringBytes: number,
): Promise<{ superblocks: Superblocks; state: LogState }> {
  await spoilHeader(new Ring(disk, ringBytes), lsn);
  return await Superblocks.restart(disk, identity, { ringBytes, tailLsn: lsn, tailCrc: chain, endLsn: lsn });
}
