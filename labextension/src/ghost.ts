/**
 * Text at the cursor: what is proposed, what was typed of it since, and what is still known from before.
 */

/** A place to complete: the cell and the text on both sides of the cursor. */
export interface IPlace {
  cell: string;
  prefix: string;
  suffix: string;
}

/** A completion, finished or still growing. */
export interface IGhost extends IPlace {
  text: string;
}

const CLOSERS = [')', ']', '}', '"', "'", '`'];

/** How many UTF-16 units the first `offset` code points of a text take; JupyterLab and the wire count the latter. */
export function unitsOf(text: string, offset: number): number {
  let units = 0;
  for (let i = 0; i < offset && units < text.length; i++) {
    units += text.codePointAt(units)! > 0xffff ? 2 : 1;
  }
  return units;
}

/**
 * What is left of a ghost at another place; null if it does not fit there.
 *
 * It fits where its text has been typed in part, and where the editor closed a bracket or a quote meanwhile:
 * `print|` with `(x)` is `print(|)` with `x` one key later.
 */
export function remainder(ghost: IGhost, place: IPlace): string | null {
  if (ghost.cell !== place.cell || !place.prefix.startsWith(ghost.prefix)) {
    return null;
  }
  const typed = place.prefix.slice(ghost.prefix.length);
  if (!ghost.text.startsWith(typed)) {
    return null;
  }
  const rest = ghost.text.slice(typed.length);
  if (place.suffix === ghost.suffix) {
    return rest;
  }
  const closer = CLOSERS.find(c => place.suffix === c + ghost.suffix && rest.endsWith(c));
  return closer === undefined ? null : rest.slice(0, -1);
}

/** The newest completions, so that typing through one, and Backspace within it, asks nobody. */
export class GhostCache<T extends IGhost> {
  constructor(private _size = 32) {}

  add(ghost: T): void {
    this._ghosts = [ghost, ...this._ghosts].slice(0, this._size);
  }

  /** The newest that has text left at this place. */
  find(place: IPlace): T | undefined {
    return this._ghosts.find(ghost => remainder(ghost, place));
  }

  remove(ghost: T): void {
    this._ghosts = this._ghosts.filter(other => other !== ghost);
  }

  clear(): void {
    this._ghosts = [];
  }

  private _ghosts: T[] = [];
}
