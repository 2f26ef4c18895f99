/** What the operator of a link may say of it, and whether that can be. */
import { EngineError } from '../errors.ts';
import type { LinkRecord } from '../group-record.ts';
import type { LinkSettings } from './link-state.ts';

/** What a user asks for at `link add`. */
export interface LinkSpec {
  readonly name: string;
  readonly uri: string;
  /** `async` unless told. */
  readonly mode?: LinkRecord['mode'];
  /** `go-on` unless told. */
  readonly onLost?: LinkRecord['onLost'];
  /** `dcm` unless told. */
  readonly onFull?: LinkRecord['onFull'];
  /** `auto` unless told. */
  readonly resync?: LinkRecord['resync'];
  readonly orderedOnly?: boolean;
  /** 0 or absent: half of the ring. */
  readonly limitBytes?: number;
  readonly limitSeconds?: number;
  readonly rateBytesPerSecond?: number;
  /** The secondary's volumes hold what these hold: nothing is copied at first. On the word of the user. */
  readonly assumeEqual?: boolean;
}

export type LinkChanges = Partial<Omit<LinkSpec, 'name' | 'assumeEqual'>>;

/** Of a new link, with what holds unless told. */
export function settingsOf(spec: LinkSpec): LinkSettings {
  return {
    name: spec.name,
    uri: spec.uri,
    mode: spec.mode ?? 'async',
    onLost: spec.onLost ?? 'go-on',
    onFull: spec.onFull ?? 'dcm',
    resync: spec.resync ?? 'auto',
    // Who makes a link asks for its first synchronisation.
    resyncAllowed: true,
    orderedOnly: spec.orderedOnly ?? false,
    limitBytes: spec.limitBytes ?? 0,
    limitSeconds: spec.limitSeconds ?? 0,
    rateBytesPerSecond: spec.rateBytesPerSecond ?? 0,
    wanted: 'active',
  };
}

/** What an undefined change leaves as it is. */
export function changed(settings: LinkSettings, changes: LinkChanges | Partial<LinkSettings>): LinkSettings {
  const entries = Object.entries(changes).filter(([, value]) => value !== undefined);
  return { ...settings, ...Object.fromEntries(entries) };
}

/** Throws `invalid`. */
export function checkSettings(settings: LinkSettings): void {
  const refuse = (what: string): never => {
    throw new EngineError('invalid', `link ${settings.name}: ${what}`);
  };
  if (settings.uri === '') refuse('it needs a URI');
  if (!['async', 'memory', 'sync'].includes(settings.mode))
    refuse(`${JSON.stringify(settings.mode)} is no mode: take "async", "memory" or "sync"`);
  if (!['go-on', 'block'].includes(settings.onLost))
    refuse(`${JSON.stringify(settings.onLost)} is no policy for a lost connection: take "go-on" or "block"`);
  if (!['dcm', 'block', 'detach'].includes(settings.onFull))
    refuse(`${JSON.stringify(settings.onFull)} is no policy for a full log: take "dcm", "block" or "detach"`);
  if (!['auto', 'manual'].includes(settings.resync))
    refuse(`${JSON.stringify(settings.resync)} is no policy for a resync: take "auto" or "manual"`);
  if (settings.onFull === 'detach' && isBlocking(settings))
    refuse(
      'with --on-lost block it cannot detach itself, which would hold all writers until somebody comes: take --on-full dcm or block',
    );
  const { limitBytes, limitSeconds, rateBytesPerSecond } = settings;
  for (const [what, value] of Object.entries({ limitBytes, limitSeconds, rateBytesPerSecond }))
    if (!Number.isSafeInteger(value) || value < 0) refuse(`${what} of ${value} cannot be`);
}

/** Whether it holds writers while it is not in its mode. */
function isBlocking({ mode, onLost }: LinkSettings): boolean {
  return mode !== 'async' && onLost === 'block';
}

/** Nobody is to hold all writers without having said so. Throws `in-use` for a link that is stopped, and blocks. */
export function checkHolding(settings: LinkSettings): void {
  const { name, wanted } = settings;
  if (wanted === 'active' || !isBlocking(settings)) return;
  const what = `link ${name} would hold all writers while it is ${wanted}: let them go on first (link set --on-lost go-on), or resume it`;
  throw new EngineError('in-use', what);
}
