/**
 * Long work, as it is asked about: what a group has under way, and what this node began and is over. A group forgets an operation when it
 * ends; whoever follows one wants to hear how.
 */
import { EngineError } from '../engine/errors.ts';
import { refusalOf } from './control/refusal.ts';
import type { OperationStatus } from './control/snapshot-schemas.ts';
import type { GroupControl, OperationView } from './group-control.ts';

/** Operations that are remembered, the last ones: somebody who follows asks every second. */
const MAX_REMEMBERED = 256;

export interface BegunOperation {
  /** As the group tells of it. */
  readonly id: string;
  readonly kind: OperationView['kind'];
  readonly target: string;
  /** Whether it is over when the group does not tell of it: it may not have begun. Absent: it is. */
  readonly isOver?: () => boolean;
}

interface Begun {
  readonly groupName: string;
  last: OperationStatus;
  /** The group tells of it under this id; undefined for work that this node follows by its promise. */
  readonly groupId: string | undefined;
  readonly isOver: (() => boolean) | undefined;
}

export class Operations {
  /** By `GROUP/ID`, oldest first. */
  readonly #begun = new Map<string, Begun>();
  #nextImport = 1;

  /** Remembers an operation of the group, to be told of when it is over. */
  begun(group: GroupControl, operation: BegunOperation): OperationStatus {
    const { id, kind, target, isOver } = operation;
    const entry: Begun = { groupName: group.name, groupId: id, isOver, last: blank(id, kind, target) };
    this.#remember(entry);
    return this.#present(group, entry);
  }

  /** Follows an import, which is over when `work` is. */
  follow(
    group: GroupControl,
    target: string,
    work: Promise<Readonly<Record<string, number>>>,
  ): OperationStatus {
    const id = `import-${this.#nextImport++}`;
    const entry: Begun = {
      groupName: group.name,
      groupId: undefined,
      isOver: undefined,
      last: blank(id, 'import', target),
    };
    this.#remember(entry);
    work.then(
      (result) => {
        entry.last = { ...finished(this.#present(group, entry)), result: { ...result } };
      },
      (error: unknown) => {
        entry.last = { ...entry.last, state: 'failed', error: refusalOf(error).body };
      },
    );
    return this.#present(group, entry);
  }

  /** What is under way. */
  list(group: GroupControl): OperationStatus[] {
    const imports = [...this.#begun.values()].filter(
      (entry) =>
        entry.groupName === group.name && entry.groupId === undefined && entry.last.state === 'running',
    );
    const ofGroup = group.operations.filter(
      (view) => !imports.some((entry) => isSameImport(view, entry.last.target)),
    );
    return [
      ...ofGroup.map((view) => statusOf(group, view)),
      ...imports.map((entry) => this.#present(group, entry)),
    ];
  }

  /** Throws `not-found`. */
  find(group: GroupControl, id: string): OperationStatus {
    const entry = this.#begun.get(`${group.name}/${id}`);
    if (entry !== undefined) return this.#present(group, entry);
    const view = group.operations.find((operation) => operation.id === id);
    if (view !== undefined) return statusOf(group, view);
    throw new EngineError(
      'not-found',
      `group ${group.name} has no operation ${JSON.stringify(id)} under way, and this run of the node began none of that name`,
    );
  }

  /** Whether an import into the volume is under way. */
  isImporting(group: GroupControl, target: string): boolean {
    return this.list(group).some((operation) => operation.kind === 'import' && operation.target === target);
  }

  forget(groupName: string): void {
    for (const [key, entry] of this.#begun) if (entry.groupName === groupName) this.#begun.delete(key);
  }

  #present(group: GroupControl, entry: Begun): OperationStatus {
    if (entry.last.state !== 'running') return entry.last;
    const { id, target } = entry.last;
    const view = group.operations.find((operation) =>
      entry.groupId === undefined ? isSameImport(operation, target) : operation.id === entry.groupId,
    );
    if (view !== undefined) entry.last = { ...statusOf(group, view), id, target };
    else if (entry.groupId !== undefined && (entry.isOver?.() ?? true)) entry.last = finished(entry.last);
    return entry.last;
  }

  #remember(entry: Begun): void {
    this.#begun.set(`${entry.groupName}/${entry.last.id}`, entry);
    if (this.#begun.size <= MAX_REMEMBERED) return;
    const [oldest] = this.#begun.keys();
    if (oldest !== undefined) this.#begun.delete(oldest);
  }
}

function isSameImport(view: OperationView, target: string): boolean {
  return view.kind === 'import' && (view.target === target || target.endsWith(`/${view.target}`));
}

function blank(id: string, kind: OperationView['kind'], target: string): OperationStatus {
  return {
    id,
    kind,
    target,
    done: 0,
    total: 0,
    unit: 'regions',
    state: 'running',
    waitsFor: null,
    result: null,
    error: null,
  };
}

function finished(last: OperationStatus): OperationStatus {
  return { ...last, done: last.total, state: 'done', waitsFor: null };
}

function statusOf(group: GroupControl, view: OperationView): OperationStatus {
  return {
    ...view,
    state: 'running',
    waitsFor: view.waitsFor ?? group.failure ?? group.stall ?? null,
    result: null,
    error: null,
  };
}
