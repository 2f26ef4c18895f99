/** The part of buffer-layout 1.2 that is used here; the package has no types of its own. */
declare module 'buffer-layout' {
  export class Layout<T> {
    /** `span`: length in bytes, negative when it is not fixed. `property`: the name of the field within a struct. */
    constructor(span: number, property?: string);
    readonly span: number;
    readonly property: string | undefined;
    decode(bytes: Buffer, offset?: number): T;
    /** Returns the number of bytes written. */
    encode(value: T, bytes: Buffer, offset?: number): number;
  }

  export function u8(property?: string): Layout<number>;
  export function u16(property?: string): Layout<number>;
  export function u32(property?: string): Layout<number>;
  export function u16be(property?: string): Layout<number>;
  export function u32be(property?: string): Layout<number>;
  export function blob(lengthBytes: number, property?: string): Layout<Buffer>;
  /** The fields in order, without padding. `T` is not checked against them: name them alike. */
  export function struct<T>(
    fields: readonly (Layout<number> | Layout<bigint> | Layout<Buffer>)[],
    property?: string,
  ): Layout<T>;
}
