import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseMessage } from '../../kernel/protocol';

test('a message of a known type is passed on as it is', () => {
  const update = { type: 'update', id: '1', index: 0, text: 'x', finish_reason: null, novel: true };
  assert.equal(parseMessage(update), update);
});

test('what this version does not know is no message', () => {
  for (const data of [
    null,
    undefined,
    'hello',
    3,
    [],
    {},
    { type: 'novel' },
    { type: 'toString' }
  ]) {
    assert.equal(parseMessage(data), null);
  }
});

test('a message without what it is for is no message', () => {
  assert.equal(parseMessage({ type: 'update', id: '1', index: 0 }), null);
  assert.equal(parseMessage({ type: 'error', code: 'model', message: 7 }), null);
});
