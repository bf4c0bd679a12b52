/**
 * The imports that a suggestion lacks: which of them come with the accepted text, and where they are added.
 */
import type { IImport } from '../kernel/protocol';
import type { StreamingSuggestion } from './streaming-suggestion';
import { codePointCount, toUtf16Offset, type ICursorContext } from './suggestion';
import type { IInlineItem } from './types';

/** Where a line begins in a source, what it holds, and where the next one begins. */
interface ILine {
  text: string;
  start: number;
  end: number;
}

const DOCSTRING = /^[rRuU]?("""|'''|"|')/;

/** The lines that import the names which the text of an item uses up to this length, and nothing has imported yet. */
export function missingImports(item: IInlineItem, context: ICursorContext, text: string): string[] {
  const { suggestion, index, target } = item;
  if (suggestion.leavesImportsOut) {
    return [];
  }
  const accepted = context.prefix.length - suggestion.prefix.length + text.length;
  const needed = (suggestion.imports[index] ?? []).filter(
    ({ offset }) => toUtf16Offset(suggestion.texts[index], offset) <= accepted
  );
  if (needed.length === 0) {
    return [];
  }
  const others = target
    .cells()
    .filter(cell => cell.cell_type === 'code' && cell.path === undefined)
    .map(({ source }) => source);
  const sources = [target.source(), ...others];
  const isThere = (code: string) =>
    sources.some(source => source.includes(code) && source.split('\n').includes(code));
  return needed.map(({ code }) => code).filter(code => !isThere(code));
}

/** The imports of a suggestion of which only this text remains, counted from its beginning. */
export function remainingImports(
  { texts, imports }: StreamingSuggestion,
  index: number,
  remaining: string
): IImport[] {
  const accepted = texts[index].slice(0, texts[index].lastIndexOf(remaining));
  const points = codePointCount(accepted);
  return (imports[index] ?? [])
    .filter(({ offset }) => offset > points)
    .map(each => ({ ...each, offset: each.offset - points }));
}

/**
 * The offset in a source where an import is added: behind the imports with which it begins, or else behind its magics,
 * a comment of its own and a docstring.
 */
export function placeOfImports(source: string): number {
  return readBeginning(source).place;
}

/** Whether a cell holds nothing but imports, besides comments and line magics. */
export function isImportCell(source: string): boolean {
  const { end, imports, isDocumented } = readBeginning(source);
  const isMagic = source.trimStart().startsWith('%%'); // such as %%writefile
  return imports > 0 && !isMagic && !isDocumented && end >= source.length;
}

/** Reads a source up to its first statement that is neither an import nor a docstring. */
function readBeginning(source: string) {
  let place = 0;
  let imports = 0;
  let isDocumented = false;
  let onlyComments = false; // since the beginning, and some
  let end = 0;
  while (end < source.length) {
    const line = lineAt(source, end);
    const code = line.text.trim();
    if (code === '') {
      place = onlyComments ? line.end : place;
      onlyComments = false;
    } else if (code.startsWith('#')) {
      onlyComments = onlyComments || line.start === 0;
      place = code.startsWith('#!') ? line.end : place;
    } else if (/^[%!]/.test(code)) {
      onlyComments = false;
      place = line.end;
    } else if (/^(import|from)\s/.test(line.text)) {
      onlyComments = false;
      line.end = endOfImport(source, line);
      if (!isOnlyImports(source.slice(line.start, line.end))) {
        break;
      }
      imports++;
      place = line.end;
    } else if (imports === 0 && !isDocumented && DOCSTRING.test(line.text)) {
      const after = endOfDocstring(source, line);
      if (after === null) {
        break;
      }
      onlyComments = false;
      isDocumented = true;
      place = line.end = after;
    } else {
      break;
    }
    end = line.end;
  }
  return { place, imports, isDocumented, end };
}

function lineAt(source: string, start: number): ILine {
  const newline = source.indexOf('\n', start);
  const end = newline < 0 ? source.length : newline + 1;
  return { text: source.slice(start, end).trimEnd(), start, end };
}

/** The end of an import, which brackets and backslashes continue on further lines. */
function endOfImport(source: string, { start, end }: ILine): number {
  const isOpen = () => {
    const code = source.slice(start, end).replace(/#[^\n]*/g, '');
    return /\\\n$/.test(code) || (code.includes('(') && !code.includes(')'));
  };
  while (end < source.length && isOpen()) {
    end = lineAt(source, end).end;
  }
  return end;
}

/** Whether all statements of a line are imports. */
function isOnlyImports(statement: string): boolean {
  const parts = statement.replace(/#[^\n]*/g, '').split(';');
  return parts.every(part => /^\s*((import|from)\s|$)/.test(part));
}

/** The end of the docstring that a line begins; null if it is more than a docstring, or not closed. */
function endOfDocstring(source: string, line: ILine): number | null {
  const [opening, quote] = DOCSTRING.exec(line.text)!;
  const closing = source.indexOf(quote, line.start + opening.length);
  const last = closing < 0 ? null : lineAt(source, closing);
  if (!last || (quote.length === 1 && closing >= line.end)) {
    return null;
  }
  const rest = source.slice(closing + quote.length, last.end).trim();
  return rest === '' || rest.startsWith('#') ? last.end : null;
}
