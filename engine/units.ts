/**
 * Branded numbers for the quantities that must not be mixed up. Each is a safe integer; the brand exists at
 * compile time only.
 */

declare const unit: unique symbol;

/** A position in a volume, in bytes from its start. */
export type ByteOffset = number & { readonly [unit]?: 'ByteOffset' };

/** The number of a region in a volume: `floor(byte offset / region size)`. */
export type RegionIndex = number & { readonly [unit]?: 'RegionIndex' };

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** Size of a region unless told otherwise at `create`, in bytes. */
export const DEFAULT_REGION_BYTES = 64 * KIB;
/** Smallest and largest region, in bytes: a page of the kernel's cache, and the largest NBD payload. */
export const MIN_REGION_BYTES = 4 * KIB;
export const MAX_REGION_BYTES = 32 * MIB;
/** Largest volume, in bytes: 2^53 - 1 is the last byte a JavaScript number addresses exactly; ext4 stops files far below. */
export const MAX_VOLUME_BYTES = 4 * 1024 * TIB;

/**
 * Log sequence number: a position in the log of a group, in log sectors since the group's birth, so that it stays a safe integer. It
 * becomes a byte offset only on the wire, as a BigInt.
 */
export type Lsn = number & { readonly [unit]?: 'Lsn' };

/** What an LSN counts, in bytes: what a disk writes whole or not at all. */
export const LOG_SECTOR_BYTES = 512;
