/**
 * What a group keeps about a link: its settings, how far its secondary is, and its DCM. It outlives connections, and is there before the first record
 * is applied; `Link` is what works on it.
 *
 * **Position.** What the secondary has durably lies below `baseLsn`, but for the regions in the DCM. Where `logLsn` is set, everything from there on comes
 * through the log, which is kept for that; the regions of records between the two are in the DCM. Where it is null, all records from `baseLsn` on become
 * marks as they are applied (rule K5). While log is shipped both move with the cursor (rule K3), in memory: the group's record follows with each checkpoint.
 * The log is freed no further than the cursor, so that what the record says is made good at a start: below the log's tail the secondary has everything.
 */
import type { LinkRecord } from '../group-record.ts';
import type { ChangeTracker, LogHold } from '../group-state.ts';
import type { RegionMapView, RegionRun } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import type { Dcm } from './dcm.ts';

/** What its operator says of it. */
export type LinkSettings = Omit<LinkRecord, 'id' | 'position' | 'peerId' | 'openRestores'>;

/** Which way a restore takes to a secondary (Fig. 5): it is not known yet; its record alone; regions that the secondary asks for; marks in the DCM. */
export type RestorePath = 'pending' | 'by reference' | 'by regions' | 'marked';

export interface LinkRestore {
  readonly lsn: Lsn;
  readonly path: RestorePath;
  /** By volume, its restoration maps, where it was of the whole group: needed once, and not when marks have come since. */
  readonly maps: readonly RegionMapView[] | undefined;
}

export class LinkState implements ChangeTracker, LogHold {
  readonly id: string;
  settings: LinkSettings;
  peerId: string | null;
  readonly dcm: Dcm;
  /** The round of a resync that is under way, by id. */
  roundId: string | undefined;
  /** The last restore that came through the log. */
  restore: LinkRestore | undefined;
  #openRestores: LinkRecord['openRestores'];
  #metLsn: Lsn = 0;
  #baseLsn: Lsn;
  #logLsn: Lsn | null;
  #heldLsn: Lsn | null;

  /** Log below `floorLsn` is not kept any more, and it ends at `endLsn`: one that was cut ends below what the record says (see `cutTo`). */
  constructor(record: LinkRecord, dcm: Dcm, floorLsn: Lsn, endLsn: Lsn = Number.POSITIVE_INFINITY) {
    const { id, position, peerId, openRestores, ...settings } = record;
    this.#openRestores = openRestores;
    this.id = id;
    this.settings = settings;
    this.peerId = peerId;
    this.dcm = dcm;
    const { baseLsn, logLsn } = position;
    // It was freed up to the cursor, which the record had not followed yet.
    const moved = logLsn !== null && logLsn < floorLsn;
    this.#baseLsn = Math.min(endLsn, moved ? floorLsn : baseLsn);
    this.#logLsn = moved ? floorLsn : logLsn && Math.min(endLsn, logLsn);
    this.#heldLsn = this.#logLsn;
  }

  /** Below it the secondary has everything durably, but for what the DCM says. */
  get baseLsn(): Lsn {
    return this.#baseLsn;
  }

  /** From there on everything comes through the log; null: it becomes marks. */
  get logLsn(): Lsn | null {
    return this.#logLsn;
  }

  /** The log is kept for it from there on. */
  get heldLsn(): Lsn | null {
    return this.#heldLsn;
  }

  /** Below it everything was where the link's mode wants it, at a time when it was in it (rule K4). */
  get metLsn(): Lsn {
    return this.#metLsn;
  }

  /** All below `lsn` is where its mode wants it. What comes after a restore that is open is not, as long as it may turn out to be of no use there. */
  met(lsn: Lsn): void {
    this.#metLsn = Math.max(this.#metLsn, Math.min(lsn, this.openRestoreLsn ?? lsn));
  }

  /** Nothing is known any more to be where its mode wants it. */
  unmet(): void {
    this.#metLsn = 0;
  }

  /** The record of a restore of which nobody knows yet which way it takes: the secondary may lack regions when it comes there. */
  get openRestoreLsn(): Lsn | undefined {
    return this.#openRestores?.firstLsn;
  }

  /** A restore is logged of which that is not known. The group's record has it with the checkpoint behind it. */
  openRestore(lsn: Lsn): void {
    this.#openRestores = { firstLsn: this.#openRestores?.firstLsn ?? lsn, lastLsn: lsn };
  }

  /** After a start the log ends at `endLsn`: what was beyond never was. */
  cutRestores(endLsn: Lsn): void {
    const open = this.#openRestores;
    if (open === undefined || open.lastLsn < endLsn) return;
    this.#openRestores = open.firstLsn < endLsn ? { ...open, lastLsn: endLsn - 1 } : undefined;
  }

  /** The secondary has applied everything below `lsn`, and has said what it needs for that. */
  closeRestores(lsn: Lsn): void {
    if (this.#openRestores !== undefined && this.#openRestores.lastLsn < lsn) this.#openRestores = undefined;
  }

  record(): LinkRecord {
    const position = { baseLsn: this.#baseLsn, logLsn: this.#logLsn };
    const record = { id: this.id, ...this.settings, position, peerId: this.peerId };
    return this.#openRestores === undefined ? record : { ...record, openRestores: this.#openRestores };
  }

  /** The secondary has everything below `lsn` durably, and gets what follows through the log, which is kept from there on. */
  moveTo(lsn: Lsn): void {
    this.#baseLsn = lsn;
    this.#logLsn = lsn;
    this.#heldLsn = lsn;
  }

  /**
   * The round begins at `lsn`: all records below it are applied and marked, and those from it on come through the log. Returns how to take it back. In the
   * lane, in one write with the checkpoint there. One that was given up meanwhile changes nothing: its secondary begins somewhere else.
   */
  beginLog(roundId: string, lsn: Lsn): () => void {
    if (this.#logLsn !== null || roundId !== this.roundId) return () => {};
    this.#logLsn = lsn;
    this.#heldLsn = lsn;
    return () => {
      this.#logLsn = null;
      this.#heldLsn = null;
    };
  }

  /**
   * What is not shipped becomes marks, as far as it is not marked yet; the log is kept until `letGo`, when that is durable (rule K6). Returns how to take
   * it back. In the lane.
   */
  endLog(): () => void {
    const logLsn = this.#logLsn;
    this.#logLsn = null;
    return () => {
      this.#logLsn = logLsn;
    };
  }

  letGo(): void {
    if (this.#logLsn === null) this.#heldLsn = null;
  }

  /**
   * The log ends at `lsn` now: what lay above never was (rule K2). The secondary may have had some of that, acknowledged or not, and what it made of it is not
   * known here: everything is marked.
   */
  cutTo(lsn: Lsn): void {
    if (this.peerId === null) return;
    this.markAll();
    this.#baseLsn = Math.min(this.#baseLsn, lsn);
    if (this.#logLsn !== null) this.#logLsn = Math.min(this.#logLsn, lsn);
    if (this.#heldLsn !== null) this.#heldLsn = Math.min(this.#heldLsn, lsn);
  }

  noteChanged(volumeIndex: number, regions: readonly RegionIndex[]): void {
    if (this.#logLsn !== null) return;
    for (const region of regions) this.mark(volumeIndex, { first: region, end: region + 1 });
  }

  noteChangedRun(volumeIndex: number, run: RegionRun): void {
    if (this.#logLsn === null) this.mark(volumeIndex, run);
  }

  /** They did not come by the log, so that they are in none of the records that the secondary gets. */
  noteReceived(volumeIndex: number, regions: readonly RegionIndex[]): void {
    for (const region of regions) this.mark(volumeIndex, { first: region, end: region + 1 });
  }

  /** The secondary lacks these regions, whatever comes through the log. */
  mark(volumeIndex: number, run: RegionRun): void {
    this.dcm.mark(volumeIndex, run);
    if (this.restore?.maps !== undefined) this.restore = { ...this.restore, maps: undefined };
  }

  markAll(): void {
    this.dcm.markAll();
    this.unmet();
    if (this.restore?.maps !== undefined) this.restore = { ...this.restore, maps: undefined };
  }

  /** A restore is applied here. `maps`: what it moves, by volume, where it is of all of them. */
  noteRestore(lsn: Lsn, maps: readonly RegionMapView[] | undefined): void {
    const path = this.#logLsn === null ? 'marked' : 'pending';
    const isUseful = path === 'pending' && this.dcm.count > 0;
    this.restore = { lsn, path, maps: isUseful ? maps : undefined };
  }

  /** How the secondary, which has come beyond `lsn`, does it. */
  noteRestorePath(lsn: Lsn, path: RestorePath): void {
    if (this.restore?.path === 'pending' && this.restore.lsn < lsn)
      this.restore = { lsn: this.restore.lsn, path, maps: undefined };
  }

  /** The secondary has restored the whole group from a snapshot of its own: what it lacked of these regions before, it has now, but for what it asks for ([0072]). */
  restoredByReference(path: RestorePath): void {
    const { restore } = this;
    restore?.maps?.forEach((map, index) => {
      for (const run of map.runs()) this.dcm.unmark(index, run);
    });
    if (restore !== undefined) this.restore = { lsn: restore.lsn, path, maps: undefined };
  }

  flush(): Promise<void> {
    return this.dcm.flush();
  }
}
