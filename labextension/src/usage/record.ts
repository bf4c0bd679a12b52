/**
 * The record of accepted suggestions: notes in the metadata of the cells, in notebooks that ask for it.
 *
 * A note holds the text, so that one can see later how much of it is still there, wherever the cell is by then.
 */
import type { NotebookPanel } from '@jupyterlab/notebook';

import { matchesOf } from '../completion/inline-items';
import { METADATA_KEY } from '../completion/policy';
import type { IInlineItem } from '../completion/types';
import type { IAttribution } from '../kernel/protocol';

/** What is recorded of one suggestion; accepting it part by part makes one note. */
export interface IAcceptanceNote {
  id: string;
  time: string;
  model?: string;
  revision?: string;
  engine?: string;
  version?: string;

  /** Where the text began in its cell, in code points. */
  offset: number;
  text: string;
  matches?: IAttribution[];
}

/** How many of the matches with indexed code are recorded. */
const MAX_RECORDED_MATCHES = 3;

/** Where a longer text is cut, in UTF-16 units: nobody accepts that much and keeps it as it is. */
const MAX_RECORDED_UNITS = 4000;

/** How many suggestions are remembered, for parts of them that may still be accepted. */
const MAX_NOTE_IDS = 100;

type Metadata = Record<string, unknown>;

/** Whether a notebook's metadata ask for the record. */
export function isRecording(metadata: unknown): boolean {
  return (metadata as { record?: unknown } | null | undefined)?.record === true;
}

/**
 * Our metadata of a notebook or a cell with one value set or, for undefined, removed; undefined if nothing is left.
 */
export function withMetadataValue(
  metadata: unknown,
  name: string,
  value: unknown
): Metadata | undefined {
  const values: Metadata = { ...((metadata ?? {}) as Metadata) };
  delete values[name];
  if (value !== undefined) {
    values[name] = value;
  }
  return Object.keys(values).length > 0 ? values : undefined;
}

/** The notes of a cell after a text was accepted: with a new note, or more text in the last one. */
export function appendNote(notes: unknown, note: IAcceptanceNote): IAcceptanceNote[] {
  const before = (Array.isArray(notes) ? notes : []) as IAcceptanceNote[];
  const last = before[before.length - 1];
  const continuesLast =
    last?.id === note.id && last.offset + [...(last.text ?? '')].length === note.offset;
  if (!continuesLast) {
    return [...before, { ...note, text: note.text.slice(0, MAX_RECORDED_UNITS) }];
  }
  const text = (last.text + note.text).slice(0, MAX_RECORDED_UNITS);
  return [
    ...before.slice(0, -1),
    { ...last, text, ...(note.matches ? { matches: note.matches } : {}) }
  ];
}

export class AcceptanceRecorder {
  /** Text of an item was accepted, at the cursor of the panel's active cell. */
  onAccepted(item: IInlineItem, text: string, panel: NotebookPanel | null, version?: string): void {
    const cell = panel?.content.activeCell;
    const editor = cell?.editor;
    if (
      !isRecording(panel?.model?.getMetadata(METADATA_KEY)) ||
      !editor ||
      cell.model.id !== item.target.cellId
    ) {
      return;
    }
    const { model } = cell;
    const end = editor.getOffsetAt(editor.getCursorPosition());
    const { suggestion } = item;
    const matches = matchesOf(item).slice(0, MAX_RECORDED_MATCHES);
    const before = model.sharedModel.getSource().slice(0, Math.max(0, end - text.length));
    const note: IAcceptanceNote = {
      id: this._noteId(suggestion.id),
      time: new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
      ...suggestion.producedBy,
      ...(version ? { version } : {}),
      offset: [...before].length,
      text,
      ...(matches.length > 0 ? { matches } : {})
    };
    const own = model.getMetadata(METADATA_KEY) as Metadata | undefined;
    const value = withMetadataValue(own, 'accepted', appendNote(own?.accepted, note));
    // Outside of the undo history: one step of undo has to take back the text itself.
    model.sharedModel.transact(() => model.setMetadata(METADATA_KEY, value), false);
  }

  /** The same id for all parts of one suggestion. */
  private _noteId(suggestionId: string): string {
    const id = this._noteIds.get(suggestionId) ?? Math.random().toString(16).slice(2, 10);
    this._noteIds.delete(suggestionId); // so that it becomes the newest
    this._noteIds.set(suggestionId, id);
    if (this._noteIds.size > MAX_NOTE_IDS) {
      const [oldest] = this._noteIds.keys();
      this._noteIds.delete(oldest);
    }
    return id;
  }

  /** Ids of notes by the id of their suggestion, the newest last. */
  private _noteIds = new Map<string, string>();
}
