import { EngineError } from './errors.ts';

/** Names become file names and parts of export names (`GROUP/VOLUME@SNAPSHOT`), so that `/` and `@` can never be in one. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

const SHOWN_CHARACTERS = 80;

/** Throws `invalid` when `text` cannot name a thing of that kind ("group", "volume", …). */
export function checkName(kind: string, text: string): void {
  if (NAME.test(text)) return;
  const shown = JSON.stringify(text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text);
  throw new EngineError(
    'invalid',
    `${shown} cannot name a ${kind}: use 1 to 64 letters, digits, ".", "_" and "-", with a letter or a digit first`,
  );
}
