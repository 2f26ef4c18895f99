/**
 * How two nodes prove to each other that they know the group's secret, without saying it: HMAC-SHA256 over a number that the other side chose for this
 * connection. Over a unix socket nobody proves anything: the rights of the socket say who may. What is proved is who opened the connection; that nobody reads or
 * changes what follows is the business of TLS or of the network.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

/** The query of LIST_META_CONTEXT; the one context that it finds is this and the server's nonce. */
export const CHALLENGE_PREFIX = 'tidemark:challenge:';
const NONCE_BYTES = 32;
const HEX = /^[0-9a-f]{64}$/;

export function newNonce(): string {
  return randomBytes(NONCE_BYTES).toString('hex');
}

/** The nonce among the contexts that a server listed. */
export function nonceOf(contexts: readonly string[]): string | undefined {
  const [only, other] = contexts.filter((context) => context.startsWith(CHALLENGE_PREFIX));
  const nonce = other === undefined ? only?.slice(CHALLENGE_PREFIX.length) : undefined;
  return nonce !== undefined && HEX.test(nonce) ? nonce : undefined;
}

/** What the client proves: HMAC(secret, nonce of the server | name of the export | 'client'). */
export function clientProof(secret: Buffer, serverNonce: string, exportName: string): string {
  return proofOver(secret, [Buffer.from(serverNonce, 'hex'), exportName, 'client']);
}

/** What the server proves: HMAC(secret, nonce of the server | nonce of the client | 'server'). */
export function serverProof(secret: Buffer, serverNonce: string, clientNonce: string): string {
  return proofOver(secret, [Buffer.from(serverNonce, 'hex'), Buffer.from(clientNonce, 'hex'), 'server']);
}

/** In a time that does not depend on where they differ. */
export function isSameProof(given: string | undefined, right: string): boolean {
  if (given === undefined || !HEX.test(given)) return false;
  return timingSafeEqual(Buffer.from(given, 'hex'), Buffer.from(right, 'hex'));
}

function proofOver(secret: Buffer, parts: readonly (Buffer | string)[]): string {
  const hmac = createHmac('sha256', secret);
  for (const part of parts) hmac.update(part);
  return hmac.digest('hex');
}
