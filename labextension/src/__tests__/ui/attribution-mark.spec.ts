import assert from 'node:assert/strict';
import { test } from 'node:test';

import { fullMatch, shortMatch } from '../../ui/attribution-mark';
import { MATCH } from '../fakes';

test('a match is written in short and in full', () => {
  assert.equal(shortMatch(MATCH), 'pandas, BSD-3-Clause');
  assert.equal(shortMatch({ ...MATCH, licence: 'NOASSERTION' }), 'pandas, licence not stated');
  assert.equal(
    fullMatch(MATCH),
    'pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 lexemes; BSD-3-Clause'
  );
  assert.match(fullMatch({ ...MATCH, lines: null, verified: false }), /by the index alone/);
});
