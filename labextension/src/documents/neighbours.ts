/**
 * The files that stand beside a text file: those that it names, and those that are open and were edited last.
 *
 * A few, and a bounded part of each. What is not open is read only if the text names it and its folder lists it.
 */
import type { IEditorTracker } from '@jupyterlab/fileeditor';
import type { Contents } from '@jupyterlab/services';
import type { Widget } from '@lumino/widgets';

import type { ICell } from '../kernel/protocol';
import { languageOfMimeType } from './mime-types';

/** How many neighbours are sent, and how many UTF-16 units of each; the kernel reads 4,000 characters. */
const MAX_NEIGHBOURS = 4;
const MAX_UNITS = 6000;

/** Files that are not open: how many names are looked up for one text, and the largest file that is read, in bytes. */
const MAX_NAMES = 8;
const MAX_BYTES = 200_000;

/** Lines in which a text names other files, and how far down they are looked for. */
const NAMING =
  /^\s*(?:#\s*include|import|from|export|use|mod|using|require|require_relative|source|include|@import|\\(?:input|include|i|ir)|\.)(?![\w-])|\brequire\s*\(|\b(?:source|include)\s*\(/;
const MAX_TEXT_UNITS = 50_000;

export class Neighbours {
  constructor(
    private _editors: IEditorTracker | null,
    private _contents: Pick<Contents.IManager, 'get'>
  ) {}

  /** The neighbours of a file, the nearest last, and the file itself, whose text comes with each request. */
  cells(widget: Widget, path: string, text: string): ICell[] {
    const names = namedFiles(text.slice(0, MAX_TEXT_UNITS), path);
    const open = this._openFiles(widget);
    const named = names.flatMap(name => {
      const found = open.find(file => isNamed(file.path, name));
      return found ? [found] : this._readFile(name, path);
    });
    const others = open.filter(file => !named.some(({ path }) => path === file.path));
    const nearest = [...new Map([...named, ...others].map(file => [file.path, file])).values()];
    const cells = nearest
      .filter(file => file.path !== path)
      .slice(0, MAX_NEIGHBOURS)
      .reverse()
      .map(file => cell(file.path, file.text.slice(0, MAX_UNITS), file.path));
    return [...cells, cell(path, '')];
  }

  /** The other open files with code, the last edited first. */
  private _openFiles(widget: Widget): IFile[] {
    const files: (IFile & { edited: number })[] = [];
    this._editors?.forEach(panel => {
      const { model } = panel.content.editor;
      if (!this._edited.has(panel)) {
        this._edited.set(panel, 0);
        panel.context.model.contentChanged.connect(() => this._edited.set(panel, ++this._edits));
      }
      const path = panel.context.path;
      if (panel !== widget && languageOfMimeType(model.mimeType) && !isHidden(path)) {
        const text = model.sharedModel.getSource();
        files.push({ path, text, edited: this._edited.get(panel)! });
      }
    });
    return files.sort((one, other) => other.edited - one.edited);
  }

  /** A file that is not open: nothing until it has been read. */
  private _readFile(name: string, from: string): IFile[] {
    const known = fresh(this._read, name, () => {
      const read: { file: IFile | null } = { file: null };
      void this._fetch(name, from).then(
        file => (read.file = file),
        () => undefined // it is no file that can be read
      );
      return read;
    });
    return known.file ? [known.file] : [];
  }

  /** Reads a file if its folder lists it: asking for one that is not there would be logged as an error. */
  private async _fetch(name: string, from: string): Promise<IFile | null> {
    const endings = [...new Set(['', ending(from)])];
    const folder = name.slice(0, Math.max(0, name.lastIndexOf('/')));
    if (!(await this._isFolder(folder))) {
      return null;
    }
    const entries = await this._list(folder);
    const entry = entries.find(
      ({ type, path, size }) =>
        type !== 'directory' &&
        (size ?? 0) <= MAX_BYTES &&
        endings.some(each => path === name + each)
    );
    if (!entry || isHidden(entry.path)) {
      return null;
    }
    const { content } = await this._contents.get(entry.path, {
      type: 'file',
      format: 'text',
      content: true
    });
    return typeof content === 'string' ? { path: entry.path, text: content } : null;
  }

  private async _isFolder(path: string): Promise<boolean> {
    if (path === '') {
      return true;
    }
    const above = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    return (
      (await this._isFolder(above)) &&
      (await this._list(above)).some(entry => entry.type === 'directory' && entry.path === path)
    );
  }

  private _list(folder: string): Promise<Contents.IModel[]> {
    return fresh(this._listings, folder, () =>
      this._contents.get(folder, { type: 'directory', content: true }).then(
        model => model.content as Contents.IModel[],
        () => []
      )
    );
  }

  private _edited = new WeakMap<Widget, number>();
  private _edits = 0;
  private _listings: Kept<Promise<Contents.IModel[]>> = new Map();
  private _read: Kept<{ file: IFile | null }> = new Map();
}

/** How long what was read of the disk counts: files may be made or changed meanwhile. */
const FRESH_MS = 30_000;

/** Values by path, with the time of their reading. */
type Kept<T> = Map<string, { value: T; at: number }>;

/** The value that is kept for a path, or what `read` returns if there is none or it is too old. */
function fresh<T>(kept: Kept<T>, path: string, read: () => T): T {
  const now = Date.now();
  const found = kept.get(path);
  if (found && now - found.at < FRESH_MS) {
    return found.value;
  }
  const value = read();
  kept.set(path, { value, at: now });
  return value;
}

interface IFile {
  path: string;
  text: string;
}

function cell(id: string, source: string, path?: string): ICell {
  return {
    id,
    cell_type: 'code',
    source,
    execution_count: null,
    ...(path === undefined ? {} : { path })
  };
}

/**
 * The paths that a text names, as they would be from the server's root; some have no ending.
 *
 * `./a`, "a.h" and {chapter} are paths, `a.b` and `a::b` are names of modules.
 */
export function namedFiles(text: string, path: string): string[] {
  const folder = path.slice(0, path.lastIndexOf('/') + 1);
  const found = new Set<string>();
  for (const line of text.split('\n')) {
    if (found.size >= MAX_NAMES) {
      break;
    }
    if (!NAMING.test(line)) {
      continue;
    }
    const quoted = [...line.matchAll(/["'<{(]([\w./-]+)["'>})]/g)].map(([, name]) => name);
    const bare = /^\s*(?:import|from|use|mod|using|source|\.|\\ir?)\s+(?:crate::)?([\w./:-]+)/.exec(
      line
    );
    const names = quoted.length > 0 ? quoted : bare ? [bare[1]] : [];
    names
      .map(name => resolved(asPath(name, quoted.length > 0), folder))
      .filter((name): name is string => name !== null && name !== path)
      .forEach(name => found.add(name));
  }
  return [...found].slice(0, MAX_NAMES);
}

/** The path of a module: a/b for a.b and a::b, ../a for ..a. */
function asPath(name: string, isPath: boolean): string {
  if (isPath || name.includes('/') || /^[\w-]+\.(?:sh|sql|bash)$/.test(name)) {
    return name;
  }
  const dots = /^\.*/.exec(name)![0].length;
  const rest = name.slice(dots).replace(/::|\./g, '/');
  return '../'.repeat(Math.max(0, dots - 1)) + rest;
}

/** The path from the server's root, without `.` and `..`; null if it is outside, or none. */
function resolved(name: string, folder: string): string | null {
  const parts: string[] = folder.split('/').filter(Boolean);
  for (const part of name.split('/')) {
    if (part === '..') {
      if (parts.pop() === undefined) {
        return null;
      }
    } else if (part !== '.' && part !== '') {
      parts.push(part);
    }
  }
  return parts.length > 0 && !name.startsWith('/') ? parts.join('/') : null;
}

function isNamed(path: string, name: string): boolean {
  return path === name || path.startsWith(`${name}.`);
}

function isHidden(path: string): boolean {
  return path.split('/').some(part => part.startsWith('.'));
}

function ending(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1);
  return name.includes('.') ? name.slice(name.lastIndexOf('.')) : '';
}
