/**
 * The cells of a document as its kernel is told of them, read again only where something has changed.
 *
 * They are asked for at each key, and a notebook may have thousands.
 */
import type { ICell } from '../kernel/protocol';

/** Somebody who tells of changes. */
interface IChanging {
  connect(slot: () => void): unknown;
}

/** A cell's model, as far as it counts here. */
export interface ICellSource {
  readonly id: string;
  readonly contentChanged: IChanging;
}

/** The models of all cells, in their order. */
export interface ICellSources<M> extends Iterable<M> {
  readonly changed: IChanging;
}

export class Cells<M extends ICellSource> {
  /** `tell` reads one cell. */
  constructor(
    private _models: ICellSources<M>,
    private _tell: (model: M) => ICell
  ) {
    _models.changed.connect(() => {
      this._moved = true;
    });
  }

  /**
   * The cells as they are now; the same array as before where none is another.
   *
   * The source of `current`, the cell that is being typed in, may be an old one.
   */
  now(current?: string): ICell[] {
    if (this._moved || [...this._stale].some(model => !this._stays(model, current))) {
      this._read();
    }
    return this._cells;
  }

  private _stays(model: M, current?: string): boolean {
    const known = this._known.get(model);
    if (model.id !== current || !known) {
      return false;
    }
    const now = this._tell(model);
    return (
      now.execution_count === known.execution_count && String(now.outputs) === String(known.outputs)
    );
  }

  private _read(): void {
    const known = new Map<M, ICell>();
    for (const model of this._models) {
      if (!this._followed.has(model)) {
        this._followed.add(model);
        model.contentChanged.connect(() => this._stale.add(model));
      }
      const cell = this._stale.has(model) ? undefined : this._known.get(model);
      known.set(model, cell ?? this._tell(model));
    }
    this._known = known;
    this._cells = [...known.values()];
    this._stale.clear();
    this._moved = false;
  }

  private _cells: ICell[] = [];
  private _followed = new WeakSet<M>();
  private _known = new Map<M, ICell>();
  private _moved = true;
  private _stale = new Set<M>();
}
