/** The typed client of the control API, over the control socket of a node on this machine. */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { errnoOf } from '../../engine/errors.ts';
import { checkSocketPath } from '../unix-socket.ts';
import type { LinkRequest, LinkSetRequest, LinkStatus, ReplicaSetRequest } from './link-schemas.ts';
import type {
  AttachRequest,
  DeviceView,
  EventList,
  EventView,
  GroupRequest,
  GroupStatus,
  NodeStatus,
} from './schemas.ts';
import type { ErrorBody } from './shapes.ts';
import type {
  ChangesPage,
  ImportRequest,
  OperationStatus,
  RestorePlanView,
  RestoreRequest,
  RestoreView,
  SnapshotRequest,
  SnapshotStatus,
} from './snapshot-schemas.ts';

/** A refusal of the node, or the lack of one (`code` `no-node`). The message is one line for people. */
export class ControlError extends Error {
  readonly code: string;
  /** HTTP status; 0 when no node answered. */
  readonly status: number;

  constructor(code: string, status: number, message: string) {
    super(message);
    this.name = 'ControlError';
    this.code = code;
    this.status = status;
  }
}

type Method = 'GET' | 'POST' | 'DELETE';

/** Creating a group of many volumes syncs as many files; a detach waits for the kernel's flush. */
const ANSWER_TIMEOUT_MS = 10 * 60 * 1000;

export class ControlClient {
  readonly #path: string;
  readonly #ending = new AbortController();

  /** Throws `invalid` for a socket path that is too long. Connects with the first request. */
  constructor(socketPath: string) {
    checkSocketPath(socketPath);
    this.#path = socketPath;
  }

  status(): Promise<NodeStatus> {
    return this.#json<NodeStatus>('GET', '/v1/status');
  }

  group(name: string): Promise<GroupStatus> {
    return this.#json<GroupStatus>('GET', `/v1/groups/${encodeURIComponent(name)}`);
  }

  createGroup(group: GroupRequest): Promise<GroupStatus> {
    return this.#json<GroupStatus>('POST', '/v1/groups', group);
  }

  async deleteGroup(name: string): Promise<void> {
    await this.#send('DELETE', `/v1/groups/${encodeURIComponent(name)}`);
  }

  attach(attachment: AttachRequest): Promise<DeviceView> {
    return this.#json<DeviceView>('POST', '/v1/devices', attachment);
  }

  /** `device`: such as `/dev/nbd0`. */
  async detach(device: string, force: boolean): Promise<void> {
    const name = encodeURIComponent(device.replace(/^\/dev\//, ''));
    await this.#send('DELETE', `/v1/devices/${name}${force ? '?force=true' : ''}`);
  }

  async snapshots(group: string): Promise<readonly SnapshotStatus[]> {
    const { snapshots } = await this.#json<{ snapshots: SnapshotStatus[] }>('GET', snapshotsOf(group));
    return snapshots;
  }

  createSnapshot(group: string, snapshot: SnapshotRequest): Promise<SnapshotStatus> {
    return this.#json<SnapshotStatus>('POST', snapshotsOf(group), snapshot);
  }

  async deleteSnapshot(group: string, name: string, force: boolean): Promise<void> {
    await this.#send('DELETE', `${snapshotsOf(group, name)}${force ? '?force=true' : ''}`);
  }

  renameSnapshot(group: string, name: string, to: string): Promise<SnapshotStatus> {
    return this.#json<SnapshotStatus>('POST', `${snapshotsOf(group, name)}/rename`, { name: to });
  }

  refreshSnapshot(group: string, name: string, force: boolean): Promise<SnapshotStatus> {
    return this.#json<SnapshotStatus>('POST', `${snapshotsOf(group, name)}/refresh`, { force });
  }

  detachSnapshot(group: string, name: string): Promise<OperationStatus> {
    return this.#json<OperationStatus>('POST', `${snapshotsOf(group, name)}/detach`);
  }

  planRestore(group: string, name: string, volume: string | undefined): Promise<RestorePlanView> {
    const query = volume === undefined ? '' : `?volume=${encodeURIComponent(volume)}`;
    return this.#json<RestorePlanView>('GET', `${snapshotsOf(group, name)}/restore-plan${query}`);
  }

  restore(group: string, name: string, request: RestoreRequest): Promise<RestoreView> {
    return this.#json<RestoreView>('POST', `${snapshotsOf(group, name)}/restore`, request);
  }

  /** One page; the next one begins at its `next`. */
  changes(
    group: string,
    volume: string,
    from: string,
    to: string | undefined,
    offsetBytes: number,
  ): Promise<ChangesPage> {
    const query = new URLSearchParams({
      from,
      ...(to === undefined ? {} : { to }),
      offset: `${offsetBytes}`,
    });
    return this.#json<ChangesPage>('GET', `${volumeOf(group, volume)}/changes?${query}`);
  }

  async links(group: string): Promise<readonly LinkStatus[]> {
    return (await this.#json<{ links: LinkStatus[] }>('GET', linksOf(group))).links;
  }

  addLink(group: string, request: LinkRequest): Promise<LinkStatus> {
    return this.#json<LinkStatus>('POST', linksOf(group), request);
  }

  setLink(group: string, link: string, request: LinkSetRequest): Promise<LinkStatus> {
    return this.#json<LinkStatus>('POST', `${linksOf(group, link)}/set`, request);
  }

  async removeLink(group: string, link: string): Promise<void> {
    await this.#send('DELETE', linksOf(group, link));
  }

  steerLink(group: string, link: string, what: 'pause' | 'resume' | 'detach'): Promise<LinkStatus> {
    return this.#json<LinkStatus>('POST', `${linksOf(group, link)}/${what}`);
  }

  resyncLink(group: string, link: string, full: boolean): Promise<LinkStatus> {
    return this.#json<LinkStatus>('POST', `${linksOf(group, link)}/resync`, { full });
  }

  freeze(group: string): Promise<GroupStatus> {
    return this.#json<GroupStatus>('POST', `/v1/groups/${encodeURIComponent(group)}/freeze`);
  }

  thaw(group: string): Promise<GroupStatus> {
    return this.#json<GroupStatus>('POST', `/v1/groups/${encodeURIComponent(group)}/thaw`);
  }

  setReplica(group: string, request: ReplicaSetRequest): Promise<GroupStatus> {
    return this.#json<GroupStatus>('POST', `/v1/groups/${encodeURIComponent(group)}/replica/set`, request);
  }

  import(group: string, volume: string, request: ImportRequest): Promise<OperationStatus> {
    return this.#json<OperationStatus>('POST', `${volumeOf(group, volume)}/import`, request);
  }

  operation(group: string, id: string): Promise<OperationStatus> {
    const path = `/v1/groups/${encodeURIComponent(group)}/operations/${encodeURIComponent(id)}`;
    return this.#json<OperationStatus>('GET', path);
  }

  events(since = 0): Promise<EventList> {
    return this.#json<EventList>('GET', `/v1/events?since=${since}`);
  }

  /** Events after `since`, as they come, until the node closes the stream or the caller leaves the loop. */
  async *follow(since = 0): AsyncGenerator<EventView, void, void> {
    const answer = await this.#request('GET', `/v1/events?since=${since}`, undefined, 'text/event-stream');
    const ready: EventSourceMessage[] = [];
    const parser = createParser({ onEvent: (message) => ready.push(message) });
    const decoder = new TextDecoder();
    try {
      for await (const chunk of answer) {
        parser.feed(decoder.decode(chunk as Uint8Array, { stream: true }));
        for (const message of ready.splice(0)) {
          if (message.event === undefined) yield JSON.parse(message.data) as EventView;
        }
      }
    } catch (error) {
      // The node went away in the middle: for a reader, the end.
      if (errnoOf(error) !== 'ECONNRESET' && !this.#ending.signal.aborted) throw error;
    } finally {
      answer.destroy();
    }
  }

  async metrics(): Promise<string> {
    return await this.#send('GET', '/metrics');
  }

  /** Ends what is open. */
  close(): void {
    this.#ending.abort();
  }

  async #json<Answer>(method: Method, path: string, body?: unknown): Promise<Answer> {
    return JSON.parse(await this.#send(method, path, body)) as Answer;
  }

  async #send(method: Method, path: string, body?: unknown): Promise<string> {
    const answer = await this.#request(method, path, body, 'application/json');
    return await text(answer);
  }

  async #request(method: Method, path: string, body: unknown, accept: string): Promise<IncomingMessage> {
    const sent = request({
      socketPath: this.#path,
      method,
      path,
      headers: { accept, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      signal: this.#ending.signal,
    });
    sent.setTimeout(ANSWER_TIMEOUT_MS, () => sent.destroy(new Error('no answer in time')));
    sent.end(body === undefined ? undefined : JSON.stringify(body));
    let answer: IncomingMessage;
    try {
      [answer] = (await once(sent, 'response')) as [IncomingMessage];
    } catch (error) {
      throw this.#unreachable(error);
    }
    // Events come when something happens: from here on, silence is no fault.
    sent.setTimeout(0);
    const status = answer.statusCode ?? 0;
    if (status < 400) return answer;
    throw refusalFrom(status, await text(answer));
  }

  #unreachable(error: unknown): ControlError {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ECONNREFUSED' || errno === 'ENOTDIR') {
      return new ControlError('no-node', 0, `no node at ${this.#path}; start one with: tidemark serve`);
    }
    if (errno === 'EACCES' || errno === 'EPERM') {
      return new ControlError(
        'no-node',
        0,
        `not allowed to open ${this.#path}: run this as the user that runs the node`,
      );
    }
    return new ControlError(
      'no-node',
      0,
      `the node at ${this.#path} did not answer: ${(error as Error).message}; try again, and if it stays so, look into the log of the node, or stop and start it`,
    );
  }
}

function snapshotsOf(group: string, snapshot?: string): string {
  const all = `/v1/groups/${encodeURIComponent(group)}/snapshots`;
  return snapshot === undefined ? all : `${all}/${encodeURIComponent(snapshot)}`;
}

function linksOf(group: string, link?: string): string {
  const all = `/v1/groups/${encodeURIComponent(group)}/links`;
  return link === undefined ? all : `${all}/${encodeURIComponent(link)}`;
}

function volumeOf(group: string, volume: string): string {
  return `/v1/groups/${encodeURIComponent(group)}/volumes/${encodeURIComponent(volume)}`;
}

function refusalFrom(status: number, said: string): ControlError {
  try {
    const body = JSON.parse(said) as Partial<ErrorBody>;
    if (typeof body.code === 'string' && typeof body.message === 'string') {
      return new ControlError(body.code, status, body.message);
    }
  } catch {
    // Not from our API: said below.
  }
  return new ControlError('invalid', status, `the node answered with HTTP status ${status} and no reason`);
}
