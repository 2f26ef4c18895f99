/** Following long work to its end, for `--wait`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ControlClient, ControlError } from '../control/client.ts';
import type { OperationStatus } from '../control/snapshot-schemas.ts';
import { formatSize } from '../sizes.ts';
import type { Output } from './session.ts';

const FOLLOW_PERIOD_MS = 250;
/** ANSI: to the start of the line, and the rest of it cleared. */
const CLEAR_LINE = '\r\u001b[K';

/** Waits until the operation is done, showing how far it is where a person looks. Throws what it failed with. */
export async function follow(
  client: ControlClient,
  group: string,
  begun: OperationStatus,
  output: Output,
): Promise<OperationStatus> {
  let operation = begun;
  let waitedFor: string | null = null;
  while (operation.state === 'running') {
    if (output.isTerminal) output.raw(`${CLEAR_LINE}${formatProgress(operation)}`);
    else if (operation.waitsFor !== null && operation.waitsFor !== waitedFor)
      output.line(formatProgress(operation));
    waitedFor = operation.waitsFor;
    await sleep(FOLLOW_PERIOD_MS);
    operation = await client.operation(group, operation.id);
  }
  if (output.isTerminal) output.raw(CLEAR_LINE);
  if (operation.error !== null) throw new ControlError(operation.error.code, 0, operation.error.message);
  return operation;
}

/** `restore monday: 12/400 regions, waits: the disk is full`. */
export function formatProgress(operation: OperationStatus): string {
  const { kind, target, done, total, unit, waitsFor } = operation;
  const amount =
    unit === 'bytes' ? `${formatSize(done)} of ${formatSize(total)}` : `${done}/${total} regions`;
  return `${kind} ${target}: ${amount}${waitsFor === null ? '' : `, waits: ${waitsFor}`}`;
}
