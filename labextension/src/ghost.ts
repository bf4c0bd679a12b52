/**
 * Text at the cursor: what is proposed, what was typed of it since, and what is still known from before.
 */

/** A place to complete: the cell and the text on both sides of the cursor. */
export interface IPlace {
  cell: string;
  prefix: string;
  suffix: string;
}

/** The candidates for one place, best first; finished or still growing. */
export interface IGhost extends IPlace {
  readonly texts: readonly string[];
}

/** What is left of one candidate. */
export interface IRest {
  index: number;
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
 * What is left of a candidate at another place; null if it does not fit there.
 *
 * It fits where its text has been typed in part, and where the editor closed a bracket or a quote meanwhile:
 * `print|` with `(x)` is `print(|)` with `x` one key later.
 */
export function remainder(ghost: IGhost, place: IPlace, index = 0): string | null {
  const text = ghost.texts[index] ?? '';
  if (ghost.cell !== place.cell || !place.prefix.startsWith(ghost.prefix)) {
    return null;
  }
  const typed = place.prefix.slice(ghost.prefix.length);
  if (!text.startsWith(typed)) {
    return null;
  }
  const rest = text.slice(typed.length);
  if (place.suffix === ghost.suffix) {
    return rest;
  }
  const closer = CLOSERS.find(c => place.suffix === c + ghost.suffix && rest.endsWith(c));
  return closer === undefined ? null : rest.slice(0, -1);
}

/** All that is left of a ghost's candidates at another place, each text once. */
export function remainders(ghost: IGhost, place: IPlace): IRest[] {
  const rests: IRest[] = [];
  ghost.texts.forEach((_, index) => {
    const text = remainder(ghost, place, index);
    if (text && !rests.some(rest => rest.text === text)) {
      rests.push({ index, text });
    }
  });
  return rests;
}

/**
 * The beginning of a text up to the end of its first word, or of its first run of signs, as the editor's own
 * Ctrl+Right has it: `np`, then `.`, then `arange`.
 */
export function nextWord(text: string): string {
  return /^\s*(?:[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_\s]+)/u.exec(text)?.[0] ?? text;
}

/**
 * The beginning of a text up to the end of its first line that says something, the line break excluded: behind
 * one, on a line of blanks, JupyterLab would drop the rest.
 */
export function nextLine(text: string): string {
  return /^\s*[^\n]*/.exec(text)![0];
}

/** Whether the text before the cursor on its line is blank, where JupyterLab asks nobody by itself. */
export function isAtLineStart(prefix: string): boolean {
  return prefix.slice(prefix.lastIndexOf('\n') + 1).trim() === '';
}

/** The newest completions, so that typing through one, and Backspace within it, asks nobody. */
export class GhostCache<T extends IGhost> {
  constructor(private _size = 32) {}

  add(ghost: T): void {
    this._ghosts = [ghost, ...this._ghosts].slice(0, this._size);
  }

  /** The newest that has text left at this place. */
  find(place: IPlace): T | undefined {
    return this._ghosts.find(ghost => remainders(ghost, place).length > 0);
  }

  remove(ghost: T): void {
    this._ghosts = this._ghosts.filter(other => other !== ghost);
  }

  clear(): void {
    this._ghosts = [];
  }

  private _ghosts: T[] = [];
}
