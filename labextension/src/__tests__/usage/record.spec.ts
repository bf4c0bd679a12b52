import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  isRecording,
  appendNote,
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
