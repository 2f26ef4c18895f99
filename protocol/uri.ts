/**
 * NBD URIs, by `doc/uri.md` of NetworkBlockDevice/nbd and RFC 3986.
 *
 * Not read with the WHATWG `URL` class: that one resolves `.` and `..` in the path, and an export name is free text
 * in which they mean nothing.
 */
import { NBD_DEFAULT_PORT, NBD_MAX_STRING_BYTES } from './constants.ts';

export type NbdAddress =
  | {
      readonly kind: 'tcp';
      readonly host: string /** 0 asks a listener to choose one. */;
      readonly port: number;
    }
  /** A path, or the name of an abstract socket after a NUL character. */
  | { readonly kind: 'unix'; readonly path: string };

export type NbdScheme = 'nbd' | 'nbds' | 'nbd+unix' | 'nbds+unix';

export interface NbdUri {
  readonly scheme: NbdScheme;
  /** True for `nbds` and `nbds+unix`: the connection has to fail where encryption cannot be had. */
  readonly tls: boolean;
  readonly address: NbdAddress;
  /** The empty string is the server's default export. */
  readonly exportName: string;
}

/** A text that is not an NBD URI that we take. The message is one line, for the person who typed it. */
export class NbdUriError extends Error {
  readonly code = 'bad-uri';

  constructor(text: string, why: string) {
    super(`${JSON.stringify(shortened(text))} is not a usable NBD URI: ${why}`);
    this.name = 'NbdUriError';
  }
}

/** Bytes of a socket's path that the kernel takes: `sun_path` of unix(7), less the closing NUL. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** Longest URI looked at, in characters: an export name and a path in which every byte is escaped, and room to spare. */
const MAX_URI_CHARACTERS = 16_384;

/** Host of a TCP URI that names none. The specification leaves it to the client; this is the choice that exposes nothing. */
const DEFAULT_HOST = 'localhost';

/** The split of RFC 3986, appendix B: scheme, authority, path, query, fragment. */
const URI_PARTS = /^([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$/s;

/** Characters that RFC 3986 lets stand in a URI: all others have to be escaped. */
const URI_CHARACTERS = /^[A-Za-z0-9._~:/?#[\]@!$&'()*+,;=%-]*$/;

/** Reads an NBD URI. Throws `NbdUriError` when it is malformed, or asks for something that cannot be given. */
export function parseNbdUri(text: string): NbdUri {
  const fail = (why: string): never => {
    throw new NbdUriError(text, why);
  };
  if (text.length > MAX_URI_CHARACTERS) fail(`it is longer than ${MAX_URI_CHARACTERS} characters`);
  const [whole, schemeText = '', authority, path = '', query, fragment] = URI_PARTS.exec(text) ?? [];
  const scheme = schemeText.toLowerCase();
  if (whole === undefined || !isScheme(scheme)) {
    return fail('it has to start with nbd://, nbds://, nbd+unix:/// or nbds+unix:///');
  }
  if (!URI_CHARACTERS.test(text)) fail('it contains a character that has to be written as %XX');
  if (fragment !== undefined) fail('it has a fragment (#), which means nothing here');
  if (authority === undefined && !path.startsWith('/')) {
    fail(`${scheme}: has to be followed by // (as in ${exampleOf(scheme)})`);
  }

  const socketPath = readQuery(query, fail);
  const tls = scheme.startsWith('nbds');
  const exportName = readExportName(path, fail);
  if (scheme.endsWith('+unix')) {
    if (authority) fail(`${scheme} has no host: write ${exampleOf(scheme)}`);
    if (socketPath === undefined) return fail(`the socket is missing: write ${exampleOf(scheme)}`);
    return { scheme, tls, address: { kind: 'unix', path: checkSocketPath(socketPath, fail) }, exportName };
  }
  if (socketPath !== undefined) fail('socket= belongs to nbd+unix and nbds+unix');
  return { scheme, tls, address: readAuthority(authority ?? '', fail), exportName };
}

/** Writes a URI that `parseNbdUri` reads as the same thing. */
export function formatNbdUri(uri: NbdUri): string {
  const path = escaped(uri.exportName, /%(?:2F|40|3A|2B|2C|3D)/g);
  if (uri.address.kind === 'unix') {
    // A plus sign stays escaped here: many readers of queries take a bare one for a space.
    return `${uri.scheme}:///${path}?socket=${escaped(uri.address.path, /%(?:2F|40|3A)/g)}`;
  }
  const { host, port } = uri.address;
  const hostText = host.includes(':') ? `[${host.replace('%', '%25')}]` : escaped(host, null);
  return `${uri.scheme}://${hostText}${port === NBD_DEFAULT_PORT ? '' : `:${port}`}${path === '' ? '' : `/${path}`}`;
}

type Fail = (why: string) => never;

function isScheme(text: string): text is NbdScheme {
  return text === 'nbd' || text === 'nbds' || text === 'nbd+unix' || text === 'nbds+unix';
}

function exampleOf(scheme: NbdScheme): string {
  return scheme.endsWith('+unix') ? `${scheme}:///export?socket=/path` : `${scheme}://host/export`;
}

/** The value of `socket`, or undefined. Other parameters are told of, as the specification asks. */
function readQuery(query: string | undefined, fail: Fail): string | undefined {
  let socketPath: string | undefined;
  for (const parameter of (query ?? '').split('&')) {
    if (parameter === '') continue;
    const equals = parameter.indexOf('=');
    const key = unescaped(equals < 0 ? parameter : parameter.slice(0, equals), fail);
    if (key.startsWith('tls-')) fail(`the parameter ${key} is not supported: TLS is not there yet`);
    if (key !== 'socket') fail(`the parameter ${JSON.stringify(shortened(key))} is unknown`);
    if (socketPath !== undefined) fail('socket= is there twice');
    socketPath = equals < 0 ? '' : unescaped(parameter.slice(equals + 1), fail);
  }
  return socketPath;
}

function checkSocketPath(path: string, fail: Fail): string {
  if (path === '' || path === '\0') fail('socket= names no socket');
  // A first NUL is the mark of Linux's abstract sockets; a later one would cut the path short in the kernel.
  if (path.indexOf('\0', 1) >= 0) fail('the path of the socket contains a NUL');
  if (utf8Bytes(path) > MAX_SOCKET_PATH_BYTES) {
    fail(
      `the path of the socket is longer than ${MAX_SOCKET_PATH_BYTES} bytes, which is all that the kernel takes`,
    );
  }
  return path;
}

function readExportName(path: string, fail: Fail): string {
  const name = unescaped(path.startsWith('/') ? path.slice(1) : path, fail);
  if (name.includes('\0')) fail('the export name contains a NUL');
  if (utf8Bytes(name) > NBD_MAX_STRING_BYTES)
    fail(`the export name is longer than ${NBD_MAX_STRING_BYTES} bytes`);
  return name;
}

function readAuthority(authority: string, fail: Fail): NbdAddress {
  if (authority.includes('@')) fail('a user name is for TLS, which is not there yet');
  const parts = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::([0-9]*))?$/.exec(authority);
  if (!parts)
    return fail('the host is malformed (an IPv6 address is written in brackets: nbd://[::1]/export)');
  const [, literal, name = '', portText = ''] = parts;
  if (literal !== undefined && !/^[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?$/.test(literal)) {
    fail(`[${shortened(literal)}] is not an IPv6 address`);
  }
  const port = portText === '' ? NBD_DEFAULT_PORT : Number(portText);
  if (port > 65_535) fail(`there is no port ${shortened(portText)}`);
  const host = unescaped(literal ?? name, fail) || DEFAULT_HOST;
  if (host.includes('\0')) fail('the host contains a NUL');
  return { kind: 'tcp', host, port };
}

function unescaped(text: string, fail: Fail): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return fail('an escape (%XX) is malformed, or is not UTF-8');
  }
}

/** Escapes all that RFC 3986 might read as a delimiter, but for the escapes that `readable` matches: those are harmless there. */
function escaped(text: string, readable: RegExp | null): string {
  const plain = encodeURIComponent(text);
  return readable === null ? plain : plain.replace(readable, (code) => decodeURIComponent(code));
}

function utf8Bytes(text: string): number {
  return new TextEncoder().encode(text).length;
}

function shortened(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
