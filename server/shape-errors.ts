/** What a schema found wrong, in words for people. The same for the settings (TypeBox) and the API (Ajv): their errors have one shape. */

export interface ShapeError {
  readonly keyword: string;
  /** Such as `/volumes/0/size`. */
  readonly instancePath: string;
  readonly params: object;
  readonly message?: string | undefined;
}

/** The problem of the first error: `must be one of "a", "b"`, `has an unknown field "x"`, or what the schema's checker says. */
export function describeShapeError(errors: readonly ShapeError[]): string {
  const [first] = errors;
  if (first === undefined) return 'is not what it has to be';
  const choices = errors
    .filter((error) => error.keyword === 'const' && error.instancePath === first.instancePath)
    .map((error) => JSON.stringify((error.params as { allowedValue?: unknown }).allowedValue));
  if (choices.length > 0) return `must be ${choices.length > 1 ? 'one of ' : ''}${choices.join(', ')}`;
  if (first.keyword === 'additionalProperties') {
    const { additionalProperty } = first.params as { additionalProperty?: unknown };
    return `has an unknown field ${JSON.stringify(additionalProperty)}`;
  }
  return first.message ?? 'is not what it has to be';
}
