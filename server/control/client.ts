/** The typed client of the control API, over the control socket of a node on this machine. */
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { Agent, type Dispatcher, request } from 'undici';
import { errnoOf } from '../../engine/errors.ts';
import { checkSocketPath } from '../unix-socket.ts';
import type {
  AttachRequest,
  DeviceView,
  ErrorBody,
  EventList,
  EventView,
  GroupRequest,
  GroupStatus,
  NodeStatus,
} from './schemas.ts';

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

/** The host of a request over a unix socket: HTTP wants one, nobody reads it. */
const ORIGIN = 'http://tidemark';
/** Creating a group of many volumes syncs as many files; a detach waits for the kernel's flush. */
const ANSWER_TIMEOUT_MS = 10 * 60 * 1000;

export class ControlClient {
  readonly #path: string;
  readonly #agent: Agent;

  /** Throws `invalid` for a socket path that is too long. Connects with the first request. */
  constructor(socketPath: string) {
    checkSocketPath(socketPath);
    this.#path = socketPath;
    this.#agent = new Agent({
      connect: { socketPath },
      connections: 4,
      headersTimeout: ANSWER_TIMEOUT_MS,
      bodyTimeout: 0,
    });
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
      for await (const chunk of answer.body) {
        parser.feed(decoder.decode(chunk as Uint8Array, { stream: true }));
        for (const message of ready.splice(0)) {
          if (message.event === undefined) yield JSON.parse(message.data) as EventView;
        }
      }
    } catch (error) {
      // The node went away in the middle: for a reader, the end.
      if (errnoOf(error) !== 'ECONNRESET' && (error as { code?: unknown }).code !== 'UND_ERR_SOCKET')
        throw error;
    } finally {
      answer.body.destroy();
    }
  }

  async metrics(): Promise<string> {
    return await this.#send('GET', '/metrics');
  }

  /** Ends what is open. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #json<Answer>(method: Dispatcher.HttpMethod, path: string, body?: unknown): Promise<Answer> {
    return JSON.parse(await this.#send(method, path, body)) as Answer;
  }

  async #send(method: Dispatcher.HttpMethod, path: string, body?: unknown): Promise<string> {
    const answer = await this.#request(method, path, body, 'application/json');
    return await answer.body.text();
  }

  async #request(
    method: Dispatcher.HttpMethod,
    path: string,
    body: unknown,
    accept: string,
  ): Promise<Dispatcher.ResponseData> {
    let answer: Dispatcher.ResponseData;
    try {
      answer = await request(`${ORIGIN}${path}`, {
        dispatcher: this.#agent,
        method,
        headers: { accept, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch (error) {
      throw this.#unreachable(error);
    }
    if (answer.statusCode < 400) return answer;
    throw refusalFrom(answer.statusCode, await answer.body.text());
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
      `the node at ${this.#path} did not answer: ${(error as Error).message}`,
    );
  }
}

function refusalFrom(status: number, text: string): ControlError {
  try {
    const body = JSON.parse(text) as Partial<ErrorBody>;
    if (typeof body.code === 'string' && typeof body.message === 'string') {
      return new ControlError(body.code, status, body.message);
    }
  } catch {
    // Not from our API: said below.
  }
  return new ControlError('invalid', status, `the node answered with HTTP status ${status} and no reason`);
}
