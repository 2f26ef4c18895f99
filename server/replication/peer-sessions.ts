import { EngineError } from '../../engine/errors.ts';
import type { ReplicaPort } from '../../engine/link/peer.ts';

type Close = (reason: string) => void;

/** Connections that a session has beside that of its state. */
export type MemberKind = 'log' | 'regions' | 'checksums';

interface Session {
  readonly number: number;
  readonly link: string;
  readonly port: ReplicaPort;
  /** Of its connections; the state connection's is one. */
  readonly connections: Set<Close>;
  hasLog: boolean;
}

/**
 * The sessions of links that are open on this node's replicas. Each is a state connection, which began it, a log connection, one for each volume that a round
 * writes to, and one for a volume that is verified. It ends with the first of the two former, or when a newer session of its group begins; the rest of its connections are closed then.
 */
export class PeerSessions {
  readonly #sessions = new Map<string, Map<number, Session>>();

  find(group: string, number: number): { readonly link: string; readonly hasLog: boolean } | undefined {
    return this.#sessions.get(group)?.get(number);
  }

  /** The state connection `close` has begun; the group's older sessions are over. */
  begun(group: string, number: number, link: string, port: ReplicaPort, close: Close): void {
    for (const older of [...(this.#sessions.get(group)?.keys() ?? [])])
      this.end(group, older, 'a newer session of the group has begun');
    const session: Session = { number, link, port, connections: new Set([close]), hasLog: false };
    this.#sessions.set(group, new Map([[number, session]]));
  }

  /** Another connection of a session. Throws `unavailable` when that is over. */
  joined(group: string, number: number, kind: MemberKind, close: Close): void {
    const session = this.#sessions.get(group)?.get(number);
    if (session === undefined) throw new EngineError('unavailable', `session ${number} is over`);
    if (kind === 'log') session.hasLog = true;
    session.connections.add(close);
  }

  /** A connection is gone that the session can do without. */
  left(group: string, number: number, close: Close): void {
    this.#sessions.get(group)?.get(number)?.connections.delete(close);
  }

  /** Closes what is left of a session, and tells its port. */
  end(group: string, number: number, reason: string): void {
    const ofGroup = this.#sessions.get(group);
    const session = ofGroup?.get(number);
    if (ofGroup === undefined || session === undefined) return;
    ofGroup.delete(number);
    if (ofGroup.size === 0) this.#sessions.delete(group);
    for (const close of session.connections) close(reason);
    session.port.ended(number, reason);
  }

  /** The group goes away. */
  endAll(group: string, reason: string): void {
    for (const number of [...(this.#sessions.get(group)?.keys() ?? [])]) this.end(group, number, reason);
  }
}
