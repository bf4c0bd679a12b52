/**
 * What the kernel knows of the notebook: first all of it is sent, afterwards only what changed.
 */
import type { ICell, INotebook } from './protocol';

export class Snapshot {
  /** The revision that the kernel has; 0 before the first. */
  get rev(): number {
    return this._rev;
  }

  /**
   * The message that brings the kernel up to date, or null if it is.
   *
   * The source of `current`, the cell that the user types in, is sent with each request; here it may be old. An array
   * that was sent is not compared again.
   */
  next(cells: ICell[], current?: string): INotebook | null {
    if (this._rev > 0 && cells === this._seen && current === this._current) {
      return null;
    }
    this._seen = cells;
    this._current = current;
    const order = cells.map(cell => cell.id);
    const changed = cells.filter(cell => !this._has(cell, cell.id === current));
    const moved =
      order.length !== this._order.length || order.some((id, i) => id !== this._order[i]);
    if (this._rev > 0 && changed.length === 0 && !moved) {
      return null;
    }
    const base = this._rev;
    const known = new Map(this._order.map(id => [id, this._cells.get(id)!]));
    changed.forEach(cell => known.set(cell.id, cell));
    this._cells = new Map(order.map(id => [id, known.get(id)!]));
    this._order = order;
    this._rev = base + 1;
    return base === 0
      ? { type: 'notebook', rev: this._rev, cells }
      : { type: 'notebook', rev: this._rev, cells: changed, base, order };
  }

  /** The message that tells where the cursor is, in code points, with whatever changed. */
  withCursor(cells: ICell[], active: string, offset: number): INotebook {
    const { _rev: base, _order: order } = this;
    const message: INotebook = this.next(cells) ?? {
      type: 'notebook',
      rev: ++this._rev,
      cells: [],
      base,
      order
    };
    return { ...message, active, offset };
  }

  private _has(cell: ICell, isCurrent: boolean): boolean {
    const known = this._cells.get(cell.id);
    return (
      known === cell ||
      (known !== undefined &&
        known.cell_type === cell.cell_type &&
        known.execution_count === cell.execution_count &&
        String(known.outputs) === String(cell.outputs) &&
        (isCurrent || known.source === cell.source))
    );
  }

  private _current: string | undefined;
  private _rev = 0;
  private _order: string[] = [];
  private _cells = new Map<string, ICell>();
  private _seen: ICell[] | null = null;
}
