/**
 * Events as a stream (server-sent events, WHATWG HTML section 9.2). A stream keeps a cursor and no queue: the ring of the `EventLog` is the
 * queue of all, so that a reader that stops reading holds one socket buffer, and finds a `missed` event when the ring has gone on.
 */
import type { ServerResponse } from 'node:http';
import type { EventLog } from '../events.ts';

/** Events between two looks at whether the reader keeps up. */
const EVENTS_PER_WRITE = 64;

/** Where a stream begins: `Last-Event-ID` of this run, all that is kept for one of another run, else `since`, else with what comes. */
export function streamStart(
  log: EventLog,
  run: string,
  lastEventId: string | undefined,
  since: string | undefined,
): number {
  if (lastEventId !== undefined) {
    const [, seenRun, id] = /^([0-9a-f]+)-(\d{1,15})$/.exec(lastEventId) ?? [];
    return seenRun === run ? Number(id) : 0;
  }
  return since === undefined ? log.lastId : Number(since);
}

/** Sends events after `cursor` until either side closes. `run` names this run of the node: ids begin anew with each. */
export function streamEvents(log: EventLog, run: string, cursor: number, response: ServerResponse): void {
  let seen = cursor;
  let blocked = false;
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
  });
  response.flushHeaders();

  const pump = (): void => {
    while (!blocked && !response.destroyed) {
      const batch = log.since(seen, EVENTS_PER_WRITE);
      const first = batch[0];
      const last = batch.at(-1);
      if (first === undefined || last === undefined) return;
      const missed = first.id - seen - 1;
      const notice = missed > 0 ? `event: missed\ndata: ${JSON.stringify({ missed })}\n\n` : '';
      const text = batch
        .map((event) => `id: ${run}-${event.id}\ndata: ${JSON.stringify(event)}\n\n`)
        .join('');
      seen = last.id;
      blocked = !response.write(notice + text);
    }
  };
  const unsubscribe = log.subscribe(pump);
  response.on('drain', () => {
    blocked = false;
    pump();
  });
  response.on('error', () => response.destroy());
  response.on('close', unsubscribe);
  pump();
}
