/**
 * The cells of a document as the kernel is sent them; each is read again only when it has changed.
 *
 * They are needed at every key, and a notebook may have thousands.
 */
import type { ICell } from '../kernel/protocol';

/** A signal, as far as this module needs one. */
interface ISignalLike {
  connect(slot: () => void): unknown;
}

/** A cell's model, as far as this module needs it. */
export interface IObservableCell {
  readonly id: string;
  readonly contentChanged: ISignalLike;
}

/** The models of all cells, in order. */
export interface IObservableCells<M> extends Iterable<M> {
  readonly changed: ISignalLike;
}

export class CellCache<M extends IObservableCell> {
  /** `readCell` reads one cell. */
  constructor(
    private _models: IObservableCells<M>,
    private _readCell: (model: M) => ICell
  ) {
    _models.changed.connect(() => {
      this._listChanged = true;
    });
  }

  /**
   * The cells as they are now; the same array as before if none has changed.
   *
   * The source of `current`, the cell that the user types in, may be an old one.
   */
  read(current?: string): ICell[] {
    if (this._listChanged || [...this._stale].some(model => !this._isUnchanged(model, current))) {
      this._readAll();
    }
    return this._cells;
  }

  /** Whether nothing but the source of the current cell has changed. */
  private _isUnchanged(model: M, current?: string): boolean {
    const cached = this._cached.get(model);
    if (model.id !== current || !cached) {
      return false;
    }
    const now = this._readCell(model);
    return (
      now.execution_count === cached.execution_count &&
      String(now.outputs) === String(cached.outputs)
    );
  }

  private _readAll(): void {
    const cells = new Map<M, ICell>();
    for (const model of this._models) {
      if (!this._observed.has(model)) {
        this._observed.add(model);
        model.contentChanged.connect(() => this._stale.add(model));
      }
      const cached = this._stale.has(model) ? undefined : this._cached.get(model);
      cells.set(model, cached ?? this._readCell(model));
    }
    this._cached = cells;
    this._cells = [...cells.values()];
    this._stale.clear();
    this._listChanged = false;
  }

  private _cached = new Map<M, ICell>();
  private _cells: ICell[] = [];
  private _listChanged = true;
  private _observed = new WeakSet<M>();
  private _stale = new Set<M>();
}
