import assert from 'node:assert/strict';
import { test } from 'node:test';

import { fullMatch, shortMatch } from '../../ui/attribution-mark';
import { ENGLISH, MATCH } from '../fakes';

test('a match is written in short and in full', () => {
  assert.equal(shortMatch(MATCH, ENGLISH), 'pandas, BSD-3-Clause');
  assert.equal(
    shortMatch({ ...MATCH, licence: 'NOASSERTION' }, ENGLISH),
    'pandas, licence not stated'
  );
  assert.equal(
    fullMatch(MATCH, ENGLISH),
    'pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 words and symbols; BSD-3-Clause'
  );
  assert.match(
    fullMatch({ ...MATCH, lines: null, verified: false }, ENGLISH),
    /by the index alone/
  );
});
