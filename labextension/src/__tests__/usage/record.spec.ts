import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { NotebookPanel } from '@jupyterlab/notebook';

import type { IInlineItem } from '../../completion/types';
import {
  AcceptanceRecorder,
  appendNote,
  isRecording,
  withMetadataValue,
  type IAcceptanceNote
} from '../../usage/record';

const note = (text: string, offset: number, id = 'a'): IAcceptanceNote => ({
  id,
  time: 't',
  offset,
  text
});

test('parts of one suggestion, accepted one after the other, make one note', () => {
  let notes = appendNote(undefined, note('np', 4));
  notes = appendNote(notes, note('.é🎉', 6));
  notes = appendNote(notes, note('()', 9));
  assert.deepEqual(notes, [note('np.é🎉()', 4)]);
});

test('another suggestion, and another place, get a note of their own', () => {
  let notes = appendNote(undefined, note('np', 4));
  notes = appendNote(notes, note('x', 6, 'b'));
  notes = appendNote(notes, note('y', 90, 'b'));
  assert.equal(notes.length, 3);
});

test('a long text is cut', () => {
  const notes = appendNote([note('a', 0)], note('x'.repeat(9000), 1));
  assert.equal(notes[0].text.length, 4000);
});

test('the other metadata stay, and none of ours is left empty', () => {
  assert.deepEqual(withMetadataValue({ mode: 'off' }, 'record', true), {
    mode: 'off',
    record: true
  });
  assert.deepEqual(withMetadataValue({ mode: 'off', record: true }, 'mode', undefined), {
    record: true
  });
  assert.equal(withMetadataValue({ record: true }, 'record', undefined), undefined);
});

test('nothing is recorded unless the notebook asks for it', () => {
  assert.deepEqual([undefined, null, {}, { record: 1 }].map(isRecording), Array(4).fill(false));
  assert.equal(isRecording({ record: true, mode: 'off' }), true);
});

/** A notebook with the record on and one cell, and the notes in that cell. */
function recordingPanel() {
  let metadata: { accepted?: IAcceptanceNote[] } = {};
  const model = {
    id: 'cell',
    sharedModel: { getSource: () => '', transact: (change: () => void) => change() },
    getMetadata: () => metadata,
    setMetadata: (_: string, value: typeof metadata) => (metadata = value)
  };
  const editor = { getOffsetAt: () => 0, getCursorPosition: () => null };
  const panel = {
    content: { activeCell: { editor, model } },
    model: { getMetadata: () => ({ record: true }) }
  };
  return { panel: panel as unknown as NotebookPanel, notes: () => metadata.accepted ?? [] };
}

function itemOf(id: string): IInlineItem {
  const suggestion = { id, attributions: [], producedBy: {} };
  return { target: { cellId: 'cell' }, suggestion, index: 0 } as unknown as IInlineItem;
}

test('parts of one suggestion have one id, also with another suggestion in between', () => {
  const { panel, notes } = recordingPanel();
  const recorder = new AcceptanceRecorder();
  ['a', 'b', 'a'].forEach(id => recorder.onAccepted(itemOf(id), 'x', panel));
  const [first, between, last] = notes().map(({ id }) => id);
  assert.equal(last, first);
  assert.notEqual(between, first);
});

test('the ids of a hundred suggestions are remembered, not of all', () => {
  const { panel, notes } = recordingPanel();
  const recorder = new AcceptanceRecorder();
  const ids = Array.from({ length: 101 }, (_, index) => `${index}`);
  [...ids, '0'].forEach(id => recorder.onAccepted(itemOf(id), 'x', panel));
  const all = notes().map(({ id }) => id);
  assert.notEqual(all[all.length - 1], all[0]);
});
