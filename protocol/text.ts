/**
 * Strings of the protocol: "a sequence of UTF-8 code points, which is not NUL terminated, MUST NOT contain NUL characters, SHOULD be
 * no longer than 256 bytes and MUST be no longer than 4096 bytes" (section "Conventions").
 */
import { isUtf8 } from 'node:buffer';
import { assert } from './assert.ts';
import { NBD_MAX_STRING_BYTES } from './constants.ts';
import { MAX_ERROR_TEXT_BYTES } from './limits.ts';

/** The string in `bytes`, or undefined when the specification does not allow it. */
export function decodeString(bytes: Buffer): string | undefined {
  if (bytes.length > NBD_MAX_STRING_BYTES || bytes.includes(0) || !isUtf8(bytes)) return undefined;
  return bytes.toString('utf8');
}

/** The bytes of a string of ours. It is our own bug when the specification does not allow it. */
export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  assert(bytes.length <= NBD_MAX_STRING_BYTES && !bytes.includes(0), 'a string that NBD cannot carry');
  return bytes;
}

/** Cut to at most `maxBytes` of UTF-8, between code points. */
export function clip(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  const mark = '…';
  let room = maxBytes - Buffer.byteLength(mark);
  let kept = '';
  for (const point of text) {
    room -= Buffer.byteLength(point);
    if (room < 0) break;
    kept += point;
  }
  return kept + mark;
}

/** Text of a peer made fit for one line of a log or a terminal: wrong UTF-8 and control characters replaced, cut to `maxBytes`. */
export function displayText(bytes: Buffer, maxBytes = MAX_ERROR_TEXT_BYTES): string {
  const text = bytes.subarray(0, 4 * maxBytes).toString('utf8');
  return clip(text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ').trim(), maxBytes);
}

/** A name that a peer sent, quoted for an error text. */
export function quoted(name: string): string {
  return JSON.stringify(clip(displayText(Buffer.from(name)), 100));
}
