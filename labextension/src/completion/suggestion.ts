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

/** What is sent of a place. */
export interface INear {
  text: string;

  /** Of the cursor, in code points. */
  offset: number;
}

/** Most of what is sent of a cell, in UTF-16 units: what no model reads need not travel at each key. */
const BEFORE = 400_000;
const BEHIND = 100_000;

/** The cut moves in steps, as all that follows it is read anew then. */
const STEP = 1 << 16;

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

/** What is sent of a place: of a long cell the part around the cursor, below the line of its magic. */
export function near({ prefix, suffix }: Pick<IPlace, 'prefix' | 'suffix'>): INear {
  let before = prefix;
  if (prefix.length > BEFORE) {
    const start = Math.ceil((prefix.length - BEFORE) / STEP) * STEP;
    const magic = /^\s*%%[^\n]*\n/.exec(prefix.slice(0, 1000))?.[0] ?? '';
    before = magic + prefix.slice(isBroken(prefix, start) ? start + 1 : start);
  }
  const end = isBroken(suffix, BEHIND) ? BEHIND - 1 : BEHIND;
  return { text: before + suffix.slice(0, end), offset: pointsOf(before) };
}

/** Whether a cut here would come between the two units of one character. */
function isBroken(text: string, at: number): boolean {
  return at < text.length && text.codePointAt(at - 1)! > 0xffff;
}

/** How many code points a text has. */
export function pointsOf(text: string): number {
  let points = 0;
  for (let i = 0; i < text.length; points++) {
    i += text.codePointAt(i)! > 0xffff ? 2 : 1;
  }
  return points;
}

/**
 * What is left of a candidate at another place; null if it does not fit there.
 *
 * It fits where its text has been typed in part, and where the editor closed a bracket or a quote meanwhile:
 * `print|` with `(x)` is `print(|)` with `x` one key later.
 */
export function remainder(ghost: IGhost, place: IPlace, index = 0): string | null {
  const text = ghost.texts[index] ?? '';
  // Of a long cell the lengths tell of most ghosts that they do not fit.
  const length = place.prefix.length - ghost.prefix.length;
  const closed = place.suffix.length - ghost.suffix.length;
  if (length < 0 || length > text.length || closed < 0 || closed > 1) {
    return null;
  }
  if (ghost.cell !== place.cell || !place.prefix.startsWith(ghost.prefix)) {
    return null;
  }
  const typed = place.prefix.slice(ghost.prefix.length);
  if (!text.startsWith(typed)) {
    return null;
  }
  const rest = text.slice(typed.length);
  if (closed === 0) {
    return place.suffix === ghost.suffix ? rest : null;
  }
  const closer = CLOSERS.find(c => place.suffix.startsWith(c) && rest.endsWith(c));
  const fits = closer !== undefined && place.suffix.endsWith(ghost.suffix);
  return fits ? rest.slice(0, -1) : null;
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
