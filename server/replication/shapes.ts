/** The values that pass between nodes, and what is wrong with one that has not the shape: said at the first fault, however long it is. */
import { type Static, type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { describeShapeError } from '../shape-errors.ts';

/** What is left above every LSN that is told, in sectors (8 GiB): a log that began at the last of all numbers could take nothing. */
const LSN_HEADROOM = 2 ** 24;

export const Nat = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
export const U32 = Type.Integer({ minimum: 0, maximum: 0xffff_ffff });
export const LogPosition = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER - LSN_HEADROOM });
/** As the record of a group has them. */
export const Uuid = Type.String({ pattern: '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' });
/** As the names of exports have it. */
export const RoundId = Type.String({ pattern: '^[0-9A-Za-z-]{1,64}$' });
/** Of a group, a volume, a snapshot, a link. */
export const PeerName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$' });

export const orNull = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()]);

/** What is wrong with a value, behind what it is called: `/endLsn must be integer`. Undefined: nothing, and it has the shape. */
export function faultOf(schema: TSchema, value: unknown): string | undefined {
  return faultAt('', schema, value);
}

export function hasShape<Schema extends TSchema>(schema: Schema, value: unknown): value is Static<Schema> {
  return faultOf(schema, value) === undefined;
}

function faultAt(path: string, schema: TSchema, value: unknown): string | undefined {
  if (Type.IsUnion(schema)) return faultOfUnion(path, schema.anyOf, value);
  if (Type.IsObject(schema)) {
    if (!isRecord(value)) return `${path} must be object`;
    for (const [key, property] of Object.entries(schema.properties)) {
      if (Object.hasOwn(value, key)) {
        const fault = faultAt(`${path}/${key}`, property, value[key]);
        if (fault !== undefined) return fault;
      } else if (!Type.IsOptional(property)) return `${path} lacks the field ${key}`;
    }
    return undefined;
  }
  if (Type.IsArray(schema)) {
    if (!Array.isArray(value)) return `${path} must be array`;
    const { maxItems = Number.POSITIVE_INFINITY } = schema as TSchema & { readonly maxItems?: number };
    if (value.length > maxItems) return `${path} has more than ${maxItems} items`;
    for (const [index, item] of value.entries()) {
      const fault = faultAt(`${path}/${index}`, schema.items, item);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }
  if (Value.Check(schema, value)) return undefined;
  return `${path} ${describeShapeError(Value.Errors(schema, value))}`;
}

/** Of the shapes that objects may have, the constants in them say which one it is meant to be. */
function faultOfUnion(path: string, shapes: readonly TSchema[], value: unknown): string | undefined {
  const objects = shapes.filter((shape) => Type.IsObject(shape));
  if (objects.length === 0 || value === null) {
    if (shapes.some((shape) => Value.Check(shape, value))) return undefined;
    return `${path} ${describeShapeError(shapes.flatMap((shape) => Value.Errors(shape, value)))}`;
  }
  if (objects.length === 1) return faultAt(path, objects[0] ?? Type.Null(), value);
  if (!isRecord(value)) return `${path} must be object`;
  const constants = (shape: TSchema) =>
    Object.entries(Type.IsObject(shape) ? shape.properties : {}).flatMap(([key, property]) =>
      Type.IsLiteral(property) ? [[key, property.const] as const] : [],
    );
  const meant = objects.find((shape) => constants(shape).every(([key, is]) => value[key] === is));
  if (meant !== undefined) return faultAt(path, meant, value);
  const [key] = constants(objects[0] ?? Type.Null())[0] ?? [];
  const choices = objects.flatMap((shape) => constants(shape).map(([, is]) => JSON.stringify(is)));
  return `${path}/${key} must be one of ${choices.join(', ')}`;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
