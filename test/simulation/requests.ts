/** What clients ask of a device: a volume, or a volume as a snapshot shows it. */
import type { BlockDevice } from '../../engine/block-device.ts';
import { EngineError } from '../../engine/errors.ts';
import { CELL_BYTES, cellsOf, cellValue, putCell } from './cells.ts';
import { type Image, Violation } from './image.ts';
import type { Machine } from './machine.ts';
import type { Request } from './model.ts';
import type { SnapshotModel } from './snapshot-model.ts';

/** What a buffer is filled with once the engine may no longer use it. */
const SCRIBBLE = 0xee;

/** A device with its model. */
export interface Target {
  readonly device: BlockDevice;
  readonly image: Image;
  readonly volume: number;
  readonly snapshot: SnapshotModel | undefined;
}

export interface CellRange {
  readonly cell: number;
  readonly cells: number;
}

/** What `tryWrite` took and `settle` has not seen yet. */
interface Unsettled {
  readonly target: Target;
  readonly request: Request;
}

export class Requests {
  readonly #machine: Machine;
  #unsettled: Unsettled[] = [];

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** The process is gone, and with it who waited. */
  forget(): void {
    this.#unsettled = [];
  }

  #begin(label: string, target: Target, { cell, cells }: CellRange, request: number): Request {
    const { model } = this.#machine;
    const { snapshot, volume } = target;
    if (snapshot === undefined) return model.beginWrite(label, volume, cell, cells, request);
    return model.beginSnapshotWrite(label, snapshot, volume, cell, cells, request);
  }

  write(target: Target, range: CellRange, inline: boolean, settle: boolean): void {
    const machine = this.#machine;
    const number = machine.model.nextRequest();
    const label = `write #${number} of ${target.image.name} ${range.cell}+${range.cells}`;
    const bytes = this.#content(target, range, number);
    machine.note(() => `${label}${inline ? ' inline' : ''}`);
    if (inline && this.#tryWrite(label, target, range, number, bytes, settle)) return;
    const request = this.#begin(label, target, range, number);
    const writing = target.device.write(bytes, 0, bytes.length, range.cell * CELL_BYTES);
    const ended = (acknowledged: boolean): void => {
      bytes.fill(SCRIBBLE);
      machine.note(() => `${label} ${acknowledged ? 'acknowledged' : 'refused'}`);
      machine.model.endRequest(request, acknowledged);
    };
    this.#follow(
      label,
      target,
      writing,
      () => ended(true),
      () => ended(false),
    );
  }

  #content(target: Target, { cell, cells }: CellRange, number: number): Buffer {
    const place = this.#machine.model.place(target.volume);
    const bytes = Buffer.allocUnsafe(cells * CELL_BYTES);
    for (let index = 0; index < cells; index++)
      putCell(bytes, index, cellValue(number, place + cell + index));
    return bytes;
  }

  /** False when it has to be done the other way. */
  #tryWrite(
    label: string,
    target: Target,
    range: CellRange,
    number: number,
    bytes: Buffer,
    settle: boolean,
  ): boolean {
    const machine = this.#machine;
    try {
      if (!target.device.tryWrite(bytes, 0, bytes.length, range.cell * CELL_BYTES)) return false;
    } catch (error) {
      // It may have been written in part, as any write that fails.
      machine.model.endRequest(this.#begin(label, target, range, number), false);
      this.#excuse(label, target, error);
      return true;
    }
    bytes.fill(SCRIBBLE);
    this.#unsettled.push({ target, request: this.#begin(label, target, range, number) });
    if (settle) this.settle();
    return true;
  }

  /** Acknowledges what was taken inline. */
  settle(): void {
    const waiting = this.#unsettled.splice(0);
    const refusals = new Map<BlockDevice, boolean>();
    for (const { target, request } of waiting) {
      let settled = refusals.get(target.device);
      if (settled === undefined) {
        settled = this.#settleDevice(target);
        refusals.set(target.device, settled);
      }
      this.#machine.observe();
      this.#machine.model.endRequest(request, settled);
    }
  }

  #settleDevice(target: Target): boolean {
    try {
      // Engines that have no log have nothing to settle.
      if (typeof target.device.settle === 'function') target.device.settle();
      return true;
    } catch (error) {
      this.#excuse('settle', target, error);
      return false;
    }
  }

  /** Throws what nothing excuses. */
  #excuse(label: string, target: Target, error: unknown): void {
    if (!(error instanceof EngineError)) throw error;
    this.#machine.note(() => `${label}: ${error.message}`);
    if (this.#mayRefuse(target, error)) return;
    throw new Violation('8 (live)', `${label} was refused: ${error.code}: ${error.message}`);
  }

  #mayRefuse(target: Target, error: EngineError): boolean {
    const { snapshot } = target;
    if (this.#machine.excused(error)) return true;
    const gone =
      snapshot !== undefined && (snapshot.leaving || !this.#machine.model.snapshots.includes(snapshot));
    return gone && (error.code === 'unavailable' || error.code === 'not-found');
  }

  zero(target: Target, range: CellRange, options: { mayPunch: boolean; fast: boolean }): void {
    const label = `zero ${target.image.name} ${range.cell}+${range.cells}`;
    const request = this.#begin(label, target, range, 0);
    const zeroing = target.device.writeZeroes(range.cell * CELL_BYTES, range.cells * CELL_BYTES, options);
    this.#change(label, target, request, zeroing, options.fast);
  }

  trim(target: Target, range: CellRange): void {
    const label = `trim ${target.image.name} ${range.cell}+${range.cells}`;
    const request = this.#begin(label, target, range, 0);
    const trimming = target.device.trim(range.cell * CELL_BYTES, range.cells * CELL_BYTES);
    this.#change(label, target, request, trimming, false);
  }

  #change(label: string, target: Target, request: Request, promise: Promise<void>, mayBeSlow: boolean): void {
    const machine = this.#machine;
    machine.note(() => label);
    const flight = { what: label, snapshot: target.snapshot, control: false };
    const refused = (error: EngineError): boolean => {
      machine.model.endRequest(request, false);
      return (mayBeSlow && error.errno === 'ENOTSUP') || this.#mayRefuse(target, error);
    };
    machine.follow(flight, promise, () => machine.model.endRequest(request, true), refused);
  }

  flush(target: Target): void {
    const machine = this.#machine;
    // Only what is acknowledged is covered, and what waits to be settled is not.
    const startedAt = ++machine.model.now;
    const label = `flush ${target.image.name}`;
    machine.note(() => label);
    const done = (): void => {
      machine.note(() => `${label} acknowledged`);
      machine.model.flushed(target.image, startedAt);
    };
    this.#follow(label, target, target.device.flush(), done, () => {});
  }

  #follow<T>(
    label: string,
    target: Target,
    promise: Promise<T>,
    done: (value: T) => void,
    failed: () => void,
  ): void {
    const flight = { what: label, snapshot: target.snapshot, control: false };
    this.#machine.follow(flight, promise, done, (error) => {
      failed();
      return this.#mayRefuse(target, error);
    });
  }

  /** Reads, checks, and hands over what was read. */
  read(
    target: Target,
    range: CellRange,
    inline: boolean,
    seen: (values: Int32Array) => void = () => {},
  ): void {
    const { model } = this.#machine;
    const label = `read ${target.image.name} ${range.cell}+${range.cells}`;
    const bytes = Buffer.alloc(range.cells * CELL_BYTES, SCRIBBLE);
    const offsetBytes = range.cell * CELL_BYTES;
    const reader = model.reader();
    const done = (): void => {
      const values = cellsOf(bytes);
      target.image.checkRead(values, range.cell, reader.startedAt, model.now);
      model.endReader(reader);
      seen(values);
    };
    let now = false;
    try {
      now = inline && target.device.tryRead(bytes, 0, bytes.length, offsetBytes);
    } catch (error) {
      model.endReader(reader);
      this.#excuse(label, target, error);
      return;
    }
    if (now) done();
    else
      this.#follow(label, target, target.device.read(bytes, 0, bytes.length, offsetBytes), done, () =>
        model.endReader(reader),
      );
  }

  /** All of a device, whatever it shows: after a crash, before anybody writes. Undefined when it is gone. */
  async readRaw(target: Target): Promise<Int32Array | undefined> {
    const bytes = Buffer.alloc(target.image.cells.length * CELL_BYTES, SCRIBBLE);
    for (;;) {
      try {
        await target.device.read(bytes, 0, bytes.length, 0);
        return cellsOf(bytes);
      } catch (error) {
        this.#excuse(`read ${target.image.name}`, target, error);
        const { snapshot } = target;
        if (snapshot !== undefined && !this.#machine.model.snapshots.includes(snapshot)) return undefined;
        await this.#machine.scheduler.clock().turn();
      }
    }
  }
}
