import { type Control, encodeControl } from './control-record.ts';
import { EngineError } from './errors.ts';
import type { GroupState } from './group-state.ts';
import type { LogBatch } from './log/record.ts';
import type { ControlEffects } from './snapshot/control-effects.ts';

/**
 * Logs a control record, with its effect at the head in the same turn; it is durable with the log's next sync. `enqueue` tells the applier. Throws
 * `unavailable` where the log has no room, and whatever keeps the log from taking more.
 */
export function appendControl(
  state: GroupState,
  effects: ControlEffects,
  enqueue: (batch: LogBatch, control: Control) => void,
  control: Control,
): LogBatch {
  const batch = state.log.appendControl(encodeControl(control));
  if (batch === undefined) {
    const what =
      'the log is full, also the room kept for this: wait until records are applied, or free space';
    throw new EngineError('unavailable', what, { errno: 'ENOSPC' });
  }
  effects.append(control, batch.lsn);
  enqueue(batch, control);
  return batch;
}
