/**
 * The record of what was accepted: a note in the cell's metadata, in notebooks that ask for it.
 *
 * It holds the text, so that it is seen later how much of it is still there, wherever the cell is by then.
 */
import type { NotebookPanel } from '@jupyterlab/notebook';

import { METADATA } from '../completion/policy';
import { matchesOf } from '../ui/attribution-mark';
import type { IOffer } from '../completion/inline-items';
import type { IAttribution } from '../kernel/protocol';

/** What is written down of one completion; accepting it part by part makes one note. */
export interface INote {
  id: string;
  time: string;
  model?: string;
  revision?: string;
  engine?: string;
  version?: string;

  /** Where in its cell the text began, in code points. */
  offset: number;
  text: string;
  matches?: IAttribution[];
}

/** Of the places where a text stands, those that are written down. */
const MOST_MATCHES = 3;

/** A longer text is cut: nobody accepts that much and keeps it as it is. */
const MOST_CHARACTERS = 4000;

type Row = Record<string, unknown>;

/** Whether a notebook's metadata ask for notes. */
export function isRecording(metadata: unknown): boolean {
  return (metadata as { record?: unknown } | null | undefined)?.record === true;
}

/** A notebook's or a cell's metadata of ours with one value more or, for undefined, less; undefined for nothing. */
export function withValue(metadata: unknown, name: string, value: unknown): Row | undefined {
  const row: Row = { ...((metadata ?? {}) as Row) };
  delete row[name];
  if (value !== undefined) {
    row[name] = value;
  }
  return Object.keys(row).length > 0 ? row : undefined;
}

/** The notes of a cell after a text was accepted: a new one, or more text in the last. */
export function noted(notes: unknown, note: INote): INote[] {
  const before = (Array.isArray(notes) ? notes : []) as INote[];
  const last = before[before.length - 1];
  const goesOn =
    last?.id === note.id && last.offset + [...(last.text ?? '')].length === note.offset;
  if (!goesOn) {
    return [...before, { ...note, text: note.text.slice(0, MOST_CHARACTERS) }];
  }
  const text = (last.text + note.text).slice(0, MOST_CHARACTERS);
  return [
    ...before.slice(0, -1),
    { ...last, text, ...(note.matches ? { matches: note.matches } : {}) }
  ];
}

export class Recorder {
  /** Text of an offer was accepted, at the cursor of the panel's active cell. */
  accepted(offer: IOffer, text: string, panel: NotebookPanel | null, version?: string): void {
    const cell = panel?.content.activeCell;
    const editor = cell?.editor;
    if (
      !isRecording(panel?.model?.getMetadata(METADATA)) ||
      !editor ||
      cell.model.id !== offer.spot.cellId
    ) {
      return;
    }
    const { model } = cell;
    const end = editor.getOffsetAt(editor.getCursorPosition());
    const { ghost } = offer;
    if (!this._ids.has(ghost.id)) {
      this._ids.set(ghost.id, Math.random().toString(16).slice(2, 10));
    }
    const matches = matchesOf(offer).slice(0, MOST_MATCHES);
    const before = model.sharedModel.getSource().slice(0, Math.max(0, end - text.length));
    const note: INote = {
      id: this._ids.get(ghost.id)!,
      time: new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
      ...ghost.by,
      ...(version ? { version } : {}),
      offset: [...before].length,
      text,
      ...(matches.length > 0 ? { matches } : {})
    };
    const own = model.getMetadata(METADATA) as Row | undefined;
    const value = withValue(own, 'accepted', noted(own?.accepted, note));
    // Not a step of undo: one of those takes back the text itself.
    model.sharedModel.transact(() => model.setMetadata(METADATA, value), false);
  }

  /** Ids of notes by the completion they are about. */
  private _ids = new Map<string, string>();
}
