/**
 * Request headers by hand against their `buffer-layout` declaration: whether hand-written code pays in the one place where a server
 * reads something for every request.
 */
import { bench, do_not_optimize, group, summary } from 'mitata';
import { NBD_CMD_READ, NBD_REQUEST_MAGIC } from '../../protocol/constants.ts';
import { extendedRequestLayout, requestLayout } from '../../protocol/layouts.ts';
import { RequestEncoder } from '../../protocol/request-encoder.ts';
import { RequestParser } from '../../protocol/request-parser.ts';

/** Headers in one receive buffer, so that no single one is a constant to the compiler. */
const HEADERS = 64;

function headers(encoder: RequestEncoder): Buffer {
  const bytes = Buffer.alloc(HEADERS * encoder.headerBytes);
  for (let index = 0; index < HEADERS; index += 1) {
    const at = index * encoder.headerBytes;
    encoder.write(bytes, at, NBD_CMD_READ, 0, 1, index, index * 2 ** 34 + 4096, 4096);
  }
  return bytes;
}

export function benchRequestHeader(): void {
  for (const [name, isExtended] of [
    ['28 bytes', false],
    ['32 bytes, extended', true],
  ] as const) {
    const encoder = new RequestEncoder(isExtended);
    const parser = new RequestParser(isExtended);
    const bytes = headers(encoder);
    const layout = isExtended ? extendedRequestLayout : requestLayout;
    group(`${HEADERS} request headers of ${name}, read`, () => {
      summary(() => {
        bench('read by hand', () => {
          let sum = 0;
          for (let at = 0; at < bytes.length; at += parser.headerBytes) {
            if (parser.read(bytes, at)) sum += parser.offset + parser.length;
          }
          return do_not_optimize(sum);
        }).baseline(true);
        bench('read by its layout', () => {
          let sum = 0;
          for (let at = 0; at < bytes.length; at += layout.span) {
            const header = layout.decode(bytes, at);
            sum += Number(header.offsetBytes) + Number(header.lengthBytes);
          }
          return do_not_optimize(sum);
        });
      });
    });
  }
  benchWriting();
}

function benchWriting(): void {
  const encoder = new RequestEncoder(false);
  const out = Buffer.alloc(HEADERS * encoder.headerBytes);
  group(`${HEADERS} request headers of 28 bytes, written`, () => {
    summary(() => {
      bench('written by hand', () => {
        let at = 0;
        for (let index = 0; index < HEADERS; index += 1) {
          at = encoder.write(out, at, NBD_CMD_READ, 0, 1, index, index * 4096, 4096);
        }
        return do_not_optimize(at);
      }).baseline(true);
      bench('written by its layout', () => {
        let at = 0;
        for (let index = 0; index < HEADERS; index += 1) {
          const cookie = (1n << 32n) | BigInt(index);
          const offsetBytes = BigInt(index * 4096);
          const header = {
            magic: NBD_REQUEST_MAGIC,
            flags: 0,
            type: NBD_CMD_READ,
            cookie,
            offsetBytes,
            lengthBytes: 4096,
          };
          at += requestLayout.encode(header, out, at);
        }
        return do_not_optimize(at);
      });
    });
  });
}
