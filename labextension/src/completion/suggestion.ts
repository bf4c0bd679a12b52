/**
 * Suggestions at the cursor: which text remains of one while the user types, and a cache of earlier ones.
 */

/** Where to complete: the cell, and its text before and after the cursor. */
export interface ICursorContext {
  cell: string;
  prefix: string;
  suffix: string;
}

/** The candidates for one cursor context, best first; finished or still streaming. */
export interface ISuggestion extends ICursorContext {
  readonly texts: readonly string[];
}

/** The part of a cell that is sent with a request. */
export interface IRequestText {
  text: string;

  /** The cursor's offset, in code points. */
  offset: number;
}

/** The most that is sent of a cell, in UTF-16 units: what no model reads need not be sent after every key. */
const MAX_PREFIX_UNITS = 400_000;
const MAX_SUFFIX_UNITS = 100_000;

/** The cut moves in steps, because the model has to read all text after it again when it moves. */
const CUT_STEP_UNITS = 1 << 16;

/** The text that remains of one candidate. */
export interface IRemainder {
  index: number;
  text: string;
}

const CLOSING_CHARACTERS = [')', ']', '}', '"', "'", '`'];

/** The UTF-16 offset for an offset in code points, which JupyterLab and the protocol count. */
export function toUtf16Offset(text: string, offset: number): number {
  let units = 0;
  for (let i = 0; i < offset && units < text.length; i++) {
    units += text.codePointAt(units)! > 0xffff ? 2 : 1;
  }
  return units;
}

/** The text to send with a request: of a long cell its cell magic and the part around the cursor. */
export function requestText({
  prefix,
  suffix
}: Pick<ICursorContext, 'prefix' | 'suffix'>): IRequestText {
  let before = prefix;
  if (prefix.length > MAX_PREFIX_UNITS) {
    const start = Math.ceil((prefix.length - MAX_PREFIX_UNITS) / CUT_STEP_UNITS) * CUT_STEP_UNITS;
    const magic = /^\s*%%[^\n]*\n/.exec(prefix.slice(0, 1000))?.[0] ?? '';
    before = magic + prefix.slice(splitsCharacter(prefix, start) ? start + 1 : start);
  }
  const end = splitsCharacter(suffix, MAX_SUFFIX_UNITS) ? MAX_SUFFIX_UNITS - 1 : MAX_SUFFIX_UNITS;
  return { text: before + suffix.slice(0, end), offset: codePointCount(before) };
}

/** Whether a cut here would come between the two UTF-16 units of one character. */
function splitsCharacter(text: string, at: number): boolean {
  return at < text.length && text.codePointAt(at - 1)! > 0xffff;
}

/** The length of a text in code points. */
export function codePointCount(text: string): number {
  let points = 0;
  for (let i = 0; i < text.length; points++) {
    i += text.codePointAt(i)! > 0xffff ? 2 : 1;
  }
  return points;
}

/**
 * The text that remains of a candidate at another cursor context; null if the candidate does not apply there.
 *
 * It applies where a part of it has been typed, also where the editor has meanwhile closed brackets or a quote: `print|`
 * with the candidate `(x)` is `print(|)` with `x` one key later. The cases in tests/data/golden/remainder.json hold for the
 * kernel's cache, too.
 */
export function remainingText(
  suggestion: ISuggestion,
  context: ICursorContext,
  index = 0
): string | null {
  const text = suggestion.texts[index] ?? '';
  // In a long cell comparing lengths rules out most suggestions.
  const typedUnits = context.prefix.length - suggestion.prefix.length;
  const closedUnits = context.suffix.length - suggestion.suffix.length;
  if (typedUnits < 0 || closedUnits < 0 || typedUnits + closedUnits > text.length) {
    return null;
  }
  if (suggestion.cell !== context.cell || !context.prefix.startsWith(suggestion.prefix)) {
    return null;
  }
  const typed = context.prefix.slice(suggestion.prefix.length);
  const closers = context.suffix.slice(0, closedUnits);
  if (
    !text.startsWith(typed) ||
    ![...closers].every(each => CLOSING_CHARACTERS.includes(each)) ||
    !context.suffix.endsWith(suggestion.suffix)
  ) {
    return null;
  }
  const remaining = text.slice(typed.length);
  return remaining.endsWith(closers) ? remaining.slice(0, remaining.length - closedUnits) : null;
}

/** The texts that remain of all candidates at another cursor context, each text once, none empty. */
export function remainingTexts(suggestion: ISuggestion, context: ICursorContext): IRemainder[] {
  const remainders: IRemainder[] = [];
  suggestion.texts.forEach((_, index) => {
    const text = remainingText(suggestion, context, index);
    if (text && !remainders.some(other => other.text === text)) {
      remainders.push({ index, text });
    }
  });
  return remainders;
}

/**
 * The beginning of a text to the end of its first word or run of punctuation, as Ctrl+Right moves in the editor: `np`,
 * then `.`, then `arange`.
 */
export function nextWord(text: string): string {
  return /^\s*(?:[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_\s]+)/u.exec(text)?.[0] ?? text;
}

/**
 * The beginning of a text to the end of its first line that is not blank, without the line break: after one, on a
 * blank line, JupyterLab would drop the rest.
 */
export function nextLine(text: string): string {
  return /^\s*[^\n]*/.exec(text)![0];
}

/** Whether the cursor's line is blank before the cursor, where JupyterLab makes no request itself. */
export function isAtLineStart(prefix: string): boolean {
  return prefix.slice(prefix.lastIndexOf('\n') + 1).trim() === '';
}

/** The newest suggestions, so that typing one, or Backspace within it, needs no request. */
export class SuggestionCache<T extends ISuggestion> {
  constructor(private _size = 32) {}

  add(suggestion: T): void {
    this._suggestions = [suggestion, ...this._suggestions].slice(0, this._size);
  }

  /** The newest suggestion of which text remains at this cursor context. */
  find(context: ICursorContext): T | undefined {
    return this._suggestions.find(suggestion => remainingTexts(suggestion, context).length > 0);
  }

  remove(suggestion: T): void {
    this._suggestions = this._suggestions.filter(other => other !== suggestion);
  }

  clear(): void {
    this._suggestions = [];
  }

  private _suggestions: T[] = [];
}
