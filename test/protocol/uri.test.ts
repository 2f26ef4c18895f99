import { isDeepStrictEqual } from 'node:util';
import t from 'tap';
import {
  formatNbdUri,
  MAX_SOCKET_PATH_BYTES,
  type NbdUri,
  NbdUriError,
  parseNbdUri,
} from '../../protocol/uri.ts';
import { Random } from '../fixtures/random.ts';

const tcp = (host: string, port: number, exportName: string): NbdUri => ({
  scheme: 'nbd',
  tls: false,
  address: { kind: 'tcp', host, port },
  exportName,
});
const unix = (path: string, exportName: string): NbdUri => ({
  scheme: 'nbd+unix',
  tls: false,
  address: { kind: 'unix', path },
  exportName,
});

t.test('the examples of the specification', async (t) => {
  const examples: [string, NbdUri][] = [
    ['nbd://example.com:10809/export', tcp('example.com', 10809, 'export')],
    ['nbd+unix:///export?socket=nbd.sock', unix('nbd.sock', 'export')],
    ['nbd://example.com/disk', tcp('example.com', 10809, 'disk')],
    ['nbd+unix:///disk?socket=sock', unix('sock', 'disk')],
    ['nbd://example.com/', tcp('example.com', 10809, '')],
    ['nbd://example.com', tcp('example.com', 10809, '')],
    ['nbd://example.com//disk', tcp('example.com', 10809, '/disk')],
    ['nbd://example.com/hello%20world', tcp('example.com', 10809, 'hello world')],
    ['nbd+unix:///?socket=%00/abstract', unix('\0/abstract', '')],
  ];
  for (const [text, expected] of examples) t.strictSame(parseNbdUri(text), expected, text);
});

t.test('what is easy to get wrong', async (t) => {
  const examples: [string, NbdUri][] = [
    // Dots mean nothing in an export name.
    ['nbd://h/a/../b/./c', tcp('h', 10809, 'a/../b/./c')],
    ['nbd://h/g/v@snap', tcp('h', 10809, 'g/v@snap')],
    ['nbd://h/caf%C3%A9%2Fx', tcp('h', 10809, 'café/x')],
    // A plus sign is not a space in a URI.
    ['nbd+unix:///?socket=/tmp/a+b%26c', unix('/tmp/a+b&c', '')],
    ['nbd+unix:/v?socket=/s', unix('/s', 'v')],
    ['nbd+unix:///v?&socket=/s?x=y&', unix('/s?x=y', 'v')],
    ['NBD://h/x', tcp('h', 10809, 'x')],
    ['nbd://h:/x', tcp('h', 10809, 'x')],
    ['nbd://h:0', tcp('h', 0, '')],
    ['nbd://h:65535', tcp('h', 65535, '')],
    ['nbd://[::1]:10/x', tcp('::1', 10, 'x')],
    ['nbd://[fe80::1%25eth0]/x', tcp('fe80::1%eth0', 10809, 'x')],
    ['nbd:///x', tcp('localhost', 10809, 'x')],
    ['nbd://:99/x', tcp('localhost', 99, 'x')],
    ['nbds://h/x', { ...tcp('h', 10809, 'x'), scheme: 'nbds', tls: true }],
    ['nbds+unix:///x?socket=s', { ...unix('s', 'x'), scheme: 'nbds+unix', tls: true }],
  ];
  for (const [text, expected] of examples) t.strictSame(parseNbdUri(text), expected, text);
});

t.test('what is refused, and the reason told in one line', async (t) => {
  const refusals: [string, RegExp][] = [
    ['', /has to start with/],
    ['http://h/x', /has to start with/],
    ['/dev/nbd0', /has to start with/],
    ['nbd:host:10809', /followed by \/\//],
    ['nbd://h/a b', /%XX/],
    ['nbd://h/a\nb', /%XX/],
    ['nbd://h/é', /%XX/],
    ['nbd://h/%zz', /malformed/],
    ['nbd://h/%ff', /not UTF-8/],
    ['nbd://h/a%00b', /NUL/],
    ['nbd://h%00/', /NUL/],
    ['nbd://h/x#y', /fragment/],
    ['nbd://user@h/x', /user name/],
    ['nbd://::1/x', /malformed/],
    ['nbd://[::1/x', /malformed/],
    ['nbd://[example.com]/x', /IPv6/],
    ['nbd://h:65536/x', /port/],
    ['nbd://h:1e3/x', /malformed/],
    ['nbd://h:-1/x', /malformed/],
    ['nbd://h/x?socket=/s', /belongs to/],
    ['nbd+unix:///x', /socket is missing/],
    ['nbd+unix://h/x?socket=/s', /no host/],
    ['nbd+unix:///x?socket=', /names no socket/],
    ['nbd+unix:///x?socket', /names no socket/],
    ['nbd+unix:///x?socket=%00', /names no socket/],
    ['nbd+unix:///x?socket=/a%00b', /NUL/],
    ['nbd+unix:///x?socket=/a&socket=/b', /twice/],
    ['nbd+unix:///x?socket=/a&sockets=1', /unknown/],
    ['nbds://h/x?tls-type=psk', /TLS/],
    [`nbd+unix:///x?socket=/${'s'.repeat(MAX_SOCKET_PATH_BYTES)}`, /longer than 107 bytes/],
    [`nbd+unix:///x?socket=${'%C3%A9'.repeat(60)}`, /longer than 107 bytes/],
    [`nbd://h/${'x'.repeat(4097)}`, /longer than 4096 bytes/],
    [`nbd://h/${'x'.repeat(100_000)}`, /longer than/],
  ];
  for (const [text, reason] of refusals) {
    try {
      t.fail(`${text} is taken as ${JSON.stringify(parseNbdUri(text))}`);
    } catch (error) {
      if (!(error instanceof NbdUriError)) throw error;
      t.match(error.message, reason, JSON.stringify(text).slice(0, 100));
      t.notMatch(error.message, /\n/);
      t.ok(error.message.length < 500, 'a message that a terminal can show');
      t.equal(error.code, 'bad-uri');
    }
  }
});

t.test('the longest that is allowed is taken', async (t) => {
  const path = `/${'s'.repeat(MAX_SOCKET_PATH_BYTES - 1)}`;
  t.strictSame(parseNbdUri(`nbd+unix:///?socket=${path}`), unix(path, ''));
  const name = 'é'.repeat(2048);
  t.strictSame(parseNbdUri(formatNbdUri(tcp('h', 1, name))), tcp('h', 1, name));
});

t.test('written as a person would', async (t) => {
  t.equal(
    formatNbdUri(unix('/run/tidemark/nbd.sock', 'g/v@s')),
    'nbd+unix:///g/v@s?socket=/run/tidemark/nbd.sock',
  );
  t.equal(formatNbdUri(tcp('example.com', 10809, 'g/v')), 'nbd://example.com/g/v');
  t.equal(formatNbdUri(tcp('::1', 99, '')), 'nbd://[::1]:99');
  t.equal(formatNbdUri(tcp('fe80::1%eth0', 10809, 'x')), 'nbd://[fe80::1%25eth0]/x');
  t.equal(formatNbdUri(unix('/a+b&c', '')), 'nbd+unix:///?socket=/a%2Bb%26c');
});

t.test('what is written is read as the same, whatever characters it is made of', async (t) => {
  const random = new Random(7);
  const characters = [...'aZ09/.@:?#[]%&=+;, !$\'()*~-_\\"<>|^`{}\u007f\té€😀'];
  const text = (longest: number): string =>
    Array.from({ length: random.below(longest) }, () => random.pick(characters)).join('');
  const changed: string[] = [];
  for (let round = 0; round < 2000; round += 1) {
    const uri = random.chance(0.5)
      ? tcp(random.pick(['localhost', 'a.example', '127.0.0.1', '::1']), random.below(65_536), text(12))
      : unix(`/${text(12)}`, text(12));
    const written = formatNbdUri(uri);
    if (!isDeepStrictEqual(parseNbdUri(written), uri)) changed.push(written);
  }
  t.strictSame(changed, []);
});

t.test('random text is taken or refused, never met with another error', async (t) => {
  const random = new Random(8);
  const pieces = [
    'nbd',
    'nbds',
    '+unix',
    ':',
    '//',
    '/',
    '?',
    'socket=',
    '&',
    '%',
    '00',
    '#',
    '[',
    ']',
    '@',
    'h',
    '9',
    '\0',
    'é',
  ];
  let taken = 0;
  for (let round = 0; round < 3000; round += 1) {
    const start = random.chance(0.7) ? random.pick(['nbd://h', 'nbd+unix:///', 'nbd://']) : '';
    const text = start + Array.from({ length: random.below(8) }, () => random.pick(pieces)).join('');
    try {
      const uri = parseNbdUri(text);
      if (isDeepStrictEqual(parseNbdUri(formatNbdUri(uri)), uri)) taken += 1;
      else t.fail(text);
    } catch (error) {
      if (!(error instanceof NbdUriError)) throw error;
    }
  }
  t.ok(taken > 100 && taken < 2900, `some of them are URIs: ${taken}`);
});
