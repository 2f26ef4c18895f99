import t from 'tap';
import { clip, decodeString, displayText, encodeString, quoted } from '../../protocol/text.ts';

t.test('strings are UTF-8, without NUL, of at most 4096 bytes', async (t) => {
  t.equal(decodeString(Buffer.from('db/data@früh')), 'db/data@früh');
  t.equal(decodeString(Buffer.alloc(0)), '');
  t.equal(decodeString(Buffer.alloc(4096, 'a')), 'a'.repeat(4096));
  t.equal(decodeString(Buffer.alloc(4097, 'a')), undefined);
  t.equal(decodeString(Buffer.from('a\0b')), undefined);
  t.equal(decodeString(Buffer.from([0x61, 0xff])), undefined);
  t.equal(decodeString(Buffer.from([0xc3])), undefined, 'a code point cut in half');
  t.equal(decodeString(Buffer.from('\ufeffa')), '\ufeffa', 'nothing is dropped on the way');
  t.strictSame(encodeString('ü'), Buffer.from([0xc3, 0xbc]));
  t.throws(() => encodeString('ü'.repeat(2049)), /bug/);
  t.throws(() => encodeString('a\0'), /bug/);
});

t.test('clipping keeps code points whole', async (t) => {
  t.equal(clip('abc', 3), 'abc');
  t.equal(clip('abcdef', 5), 'ab…');
  t.equal(clip('€€€', 8), '€…');
  t.equal(clip('\u{1f600}\u{1f600}', 7), '\u{1f600}…');
  for (let maxBytes = 3; maxBytes < 40; maxBytes += 1) {
    t.ok(Buffer.byteLength(clip('aü€\u{1f600}'.repeat(9), maxBytes)) <= maxBytes);
  }
});

t.test("a peer's text cannot play tricks with a terminal or a log", async (t) => {
  t.equal(displayText(Buffer.from('no\u001b[31m such\r\nexport\0')), 'no [31m such export');
  t.equal(displayText(Buffer.from('a\u202eb\u2028c')), 'a b c', 'direction marks and line separators');
  t.equal(displayText(Buffer.from([0x6f, 0x6b, 0xff])), 'ok\ufffd');
  t.ok(Buffer.byteLength(displayText(Buffer.alloc(32768, '€'))) <= 256);
  t.equal(quoted('a"b\n'), '"a\\"b"');
});
