import type { FioLoad } from './bench-fio.ts';

export type PeerName = 'tidemark' | 'nbdkit' | 'nbdkit-1-thread' | 'qemu-nbd';

export const PEER_NAMES: readonly PeerName[] = ['tidemark', 'nbdkit', 'nbdkit-1-thread', 'qemu-nbd'];

/** One load that every server gets. */
export interface Cell extends FioLoad {
  readonly name: string;
  /** The least ratio of Tidemark's median to the other's that we aim for. */
  readonly targets: Readonly<Partial<Record<PeerName, number>>>;
}

/**
 * The six loads and what we aim for: at or above nbdkit in small writes and in deep small reads, four fifths of it in
 * the rest, and at or above qemu-nbd everywhere.
 */
export const CELLS: readonly Cell[] = [
  cell('4k-randread-qd1', 'randread', 4096, 1, 0.8),
  cell('4k-randread-qd32', 'randread', 4096, 32, 1),
  cell('4k-randwrite-qd1', 'randwrite', 4096, 1, 1),
  cell('4k-randwrite-qd32', 'randwrite', 4096, 32, 1),
  cell('128k-read-qd8', 'read', 128 * 1024, 8, 0.8),
  cell('128k-write-qd8', 'write', 128 * 1024, 8, 0.8),
];

function cell(
  name: string,
  pattern: Cell['pattern'],
  blockBytes: number,
  depth: number,
  ofNbdkit: number,
): Cell {
  return { name, pattern, blockBytes, depth, targets: { nbdkit: ofNbdkit, 'qemu-nbd': 1 } };
}
