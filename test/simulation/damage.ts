/**
 * Damage to the log of a group that is not open (rule L5): where a later batch says that the place was durable, the group refuses to open, and changes
 * nothing; once the log is whole again it opens as if nothing had been.
 */
import { crc32 } from 'node:zlib';
import type { EngineError } from '../../engine/errors.ts';
import {
  LOG_BATCH_MAGIC,
  LOG_RING_OFFSET_BYTES,
  LOG_SLOT_BYTES,
  LOG_SLOTS,
  logSuperblockLayout,
} from '../../engine/formats.ts';
import { Group } from '../../engine/group.ts';
import { Violation } from './image.ts';
import type { Machine } from './machine.ts';
import { type Medium, SECTOR_BYTES } from './sim-medium.ts';
import { fileKind } from './storage.ts';

const HEADER_BYTES = 64;
const TWO_32 = 2 ** 32;

interface Header {
  readonly lsn: number;
  readonly durableLsn: number;
  readonly sectors: number;
}

function logMedium(machine: Machine): Medium | undefined {
  for (const [name, medium] of machine.storage.media) {
    if (!name.startsWith('/') && fileKind(name) === 'log' && medium.sizeBytes > machine.plan.logBytes)
      return medium;
  }
  return undefined;
}

const ringSector = (machine: Machine, lsn: number): number =>
  LOG_RING_OFFSET_BYTES / SECTOR_BYTES + (lsn % (machine.plan.logBytes / SECTOR_BYTES));

function readSector(medium: Medium, sector: number): Buffer {
  const bytes = Buffer.alloc(SECTOR_BYTES);
  medium.read(bytes, 0, SECTOR_BYTES, sector * SECTOR_BYTES);
  return bytes;
}

function headerAt(machine: Machine, medium: Medium, lsn: number): Header | undefined {
  const bytes = readSector(medium, ringSector(machine, lsn));
  if (bytes.readUInt32LE(8) !== LOG_BATCH_MAGIC) return undefined;
  if (crc32(bytes.subarray(4, HEADER_BYTES)) !== bytes.readUInt32LE(0)) return undefined;
  const number = (at: number): number => bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * TWO_32;
  if (number(16) !== lsn) return undefined;
  return { lsn, durableLsn: number(24), sectors: bytes.readUInt32LE(52) };
}

/** Where the log may begin, by either superblock. */
function tailOf(medium: Medium): number {
  let tail = 0;
  for (let slot = 0; slot < LOG_SLOTS; slot++) {
    const bytes = readSector(medium, (slot * LOG_SLOT_BYTES) / SECTOR_BYTES);
    tail = Math.max(tail, Number(logSuperblockLayout.decode(bytes).tailLsn));
  }
  return tail;
}

/** Batches of which a later one says that they were durable. */
function provenBatches(machine: Machine, medium: Medium, from: number, durableLsn: number): Header[] {
  const batches: Header[] = [];
  for (let lsn = Math.max(from, tailOf(medium)); lsn < durableLsn; ) {
    const header = headerAt(machine, medium, lsn);
    if (header === undefined) break;
    batches.push(header);
    lsn += header.sectors;
  }
  const proven = Math.max(0, ...batches.map((batch) => batch.durableLsn));
  return batches.filter((batch) => batch.lsn + batch.sectors <= proven);
}

/** `known`: positions of the log as the group that was open told them. */
export async function damageLog(machine: Machine, known: Group['log'], place: number): Promise<void> {
  const medium = logMedium(machine);
  if (medium === undefined) return;
  const batches = provenBatches(machine, medium, known.checkpointLsn, known.durableLsn);
  const batch = batches[place % Math.max(1, batches.length)];
  if (batch === undefined) return;
  const sector = ringSector(machine, batch.lsn + (Math.floor(place / batches.length) % batch.sectors));
  machine.note(() => `sector ${sector} of the log is damaged, in the batch at LSN ${batch.lsn}`);
  medium.turnOver(sector);
  await expectRefusal(machine, batch.lsn);
  medium.turnOver(sector);
  machine.note(() => 'the log is mended');
}

async function expectRefusal(machine: Machine, lsn: number): Promise<void> {
  let refused = false;
  const flight = { what: 'open with a damaged log', snapshot: undefined, control: false };
  const opened = (): void => {
    throw new Violation('1 (L5)', `the batch at LSN ${lsn} is damaged and was durable, and the group opens`);
  };
  const isRight = (error: EngineError): boolean => {
    refused = error.code === 'corrupt';
    return refused;
  };
  const opening = Group.open(machine.newFolder(), machine.scheduler.clock(), machine.options);
  machine.follow(flight, opening, opened, isRight);
  await machine.until('a refusal to open with a damaged log', () => refused);
}
