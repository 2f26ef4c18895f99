/**
 * Lets `most` calls run at a time; the others wait in the order in which they came. Those who wait are bounded by who may ask: each
 * request has a permit.
 */
export function turnstile(most: number): <T>(call: () => Promise<T>) => Promise<T> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (call) => {
    // Who is let in takes over the place of the one that leaves.
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await call();
    } finally {
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}
