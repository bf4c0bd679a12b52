import assert from 'node:assert/strict';
import { test } from 'node:test';

import { StreamingSuggestion } from '../../completion/streaming-suggestion';
import type { IUpdate } from '../../kernel/protocol';
import { MATCH } from '../fakes';

test('a suggestion has the matches of its candidates and the model that produced it, and so has its remainder', async () => {
  const context = { cell: 'c', prefix: 'a', suffix: '' };
  const suggestion = new StreamingSuggestion(context, 1);
  const update: IUpdate = { type: 'update', id: '1', index: 0, text: 'bc', finish_reason: null };
  await suggestion.consume(
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
  const rest = StreamingSuggestion.remainder(suggestion, { ...context, prefix: 'ab' }, 'c');
  for (const one of [suggestion, rest]) {
    assert.deepEqual(one.attributions[0], [MATCH]);
    assert.equal(one.policy, 'warn');
    assert.deepEqual(one.producedBy, { model: 'embedded', engine: 'transformers' });
  }
});
