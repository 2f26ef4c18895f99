import type { LogRestart } from '../link/peer.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';

/**
 * The names of the primary's snapshots as of where a log begins anew: what was deleted meanwhile has none any more (rule S4). In memory; `giveBack` takes
 * that back when it cannot be made durable, `tell` when it is.
 */
export function takeNames(
  effects: ControlEffects,
  named: LogRestart['snapshots'],
): { readonly giveBack: () => void; readonly tell: () => void } {
  const before = effects.named.filter((snapshot) => !snapshot.local);
  const old = before.map((snapshot) => ({
    snapshot,
    name: snapshot.name,
    recordedName: snapshot.recordedName,
  }));
  const local = new Set(effects.named.filter(({ local }) => local).map(({ name }) => name));
  for (const snapshot of before) {
    const name = named.find(({ id }) => id === snapshot.id)?.name;
    const given = name === undefined || local.has(name) ? null : name;
    snapshot.name = given;
    snapshot.recordedName = given;
  }
  const giveBack = (): void => {
    for (const { snapshot, name, recordedName } of old) Object.assign(snapshot, { name, recordedName });
  };
  const tell = (): void => {
    for (const { snapshot } of old) if (snapshot.name === null) effects.onGone(snapshot.id, undefined);
  };
  return { giveBack, tell };
}
