import assert from 'node:assert/strict';
import { test } from 'node:test';

import { briefly, inFull } from '../../ui/attribution-mark';
import { GrowingGhost } from '../../completion/streaming-suggestion';
import type { IAttribution, IUpdate } from '../../kernel/protocol';
import { isRecording, noted, withValue, type INote } from '../../usage/record';

const MATCH: IAttribution = {
  source: 'pandas',
  version: '3.1.1',
  licence: 'BSD-3-Clause',
  path: 'pandas/core/frame.py',
  lines: [10, 20],
  lexemes: 80
};

const note = (text: string, offset: number, id = 'a'): INote => ({ id, time: 't', offset, text });

test('parts of one completion, accepted one behind the other, make one note', () => {
  let notes = noted(undefined, note('np', 4));
  notes = noted(notes, note('.é🎉', 6));
  notes = noted(notes, note('()', 9));
  assert.deepEqual(notes, [note('np.é🎉()', 4)]);
});

test('another completion, and another place, make notes of their own', () => {
  let notes = noted(undefined, note('np', 4));
  notes = noted(notes, note('x', 6, 'b'));
  notes = noted(notes, note('y', 90, 'b'));
  assert.equal(notes.length, 3);
});

test('a note of much text is cut', () => {
  const notes = noted([note('a', 0)], note('x'.repeat(9000), 1));
  assert.equal(notes[0].text.length, 4000);
});

test('metadata of others stay, and none of ours are left empty', () => {
  assert.deepEqual(withValue({ mode: 'off' }, 'record', true), { mode: 'off', record: true });
  assert.deepEqual(withValue({ mode: 'off', record: true }, 'mode', undefined), { record: true });
  assert.equal(withValue({ record: true }, 'record', undefined), undefined);
});

test('nothing is recorded unless the notebook says so', () => {
  assert.deepEqual([undefined, null, {}, { record: 1 }].map(isRecording), Array(4).fill(false));
  assert.equal(isRecording({ record: true, mode: 'off' }), true);
});

test('a match is said in few words and in all', () => {
  assert.equal(briefly(MATCH), 'pandas, BSD-3-Clause');
  assert.equal(briefly({ ...MATCH, licence: 'NOASSERTION' }), 'pandas, licence not stated');
  assert.equal(
    inFull(MATCH),
    'pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 lexemes; BSD-3-Clause'
  );
  assert.match(inFull({ ...MATCH, lines: null, verified: false }), /by the index alone/);
});

test('a ghost knows where its candidates come from and who made them, and so does what is left of it', async () => {
  const place = { cell: 'c', prefix: 'a', suffix: '' };
  const ghost = new GrowingGhost(place, 1);
  const update: IUpdate = { type: 'update', id: '1', index: 0, text: 'bc', finish_reason: null };
  await ghost.grow(
    (async function* () {
      yield update;
      yield {
        ...update,
        finish_reason: 'stop' as const,
        attribution: [MATCH],
        policy: 'warn',
        model: 'embedded',
        engine: 'transformers'
      };
    })()
  );
  const rest = GrowingGhost.rest(ghost, { ...place, prefix: 'ab' }, 'c');
  for (const one of [ghost, rest]) {
    assert.deepEqual(one.attributions[0], [MATCH]);
    assert.equal(one.policy, 'warn');
    assert.deepEqual(one.by, { model: 'embedded', engine: 'transformers' });
  }
});
