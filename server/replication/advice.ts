/** What an operator can do about a node that is not what a link takes it for. */
import type { EngineError } from '../../engine/errors.ts';
import { NBD_REP_ERR_POLICY } from '../../protocol/constants.ts';
import { replyErrorName } from '../../protocol/errors.ts';
import { NbdConnectionError } from '../nbd-client-errors.ts';

/** The failure to open a session, with what to do behind it where it does not say so itself. `group`: the name of the group there. */
export function withAdvice({ code, message, cause }: EngineError, group: string): string {
  const there = `the URI has to lead to the NBD socket of a node that has a group ${group}, made with tidemark create --replica (link set --uri changes it)`;
  // It was opened, and what it says is not what a secondary says.
  if (code === 'invalid') return `${message}: that is no node of tidemark: ${there}`;
  if (!(cause instanceof NbdConnectionError)) return message;
  if (cause.code === 'unreachable') return `${message}: start the node there; ${there}`;
  const isNoNode = cause.code === 'refused' || cause.code === 'protocol';
  // A node of ours refuses by policy, with words of its own.
  if (!isNoNode || message.includes(replyErrorName(NBD_REP_ERR_POLICY))) return message;
  return `${message}: ${there}`;
}
