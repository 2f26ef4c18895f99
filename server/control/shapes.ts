/** What the shapes of the control API are made of. */
import { type Static, Type } from 'typebox';

export const nullable = <Schema extends Parameters<typeof Type.Union>[0][number]>(schema: Schema) =>
  Type.Union([schema, Type.Null()]);

export const Count = Type.Integer({ minimum: 0 });

/** A name as it comes in: whether it is one is said by the engine, in better words than a schema's. */
export const Name = Type.String({ maxLength: 256 });

export const ErrorBody = Type.Object(
  { code: Type.String(), message: Type.String() },
  { description: 'Every refusal: a stable code, and one line that says what, why and what to do.' },
);
export type ErrorBody = Static<typeof ErrorBody>;
