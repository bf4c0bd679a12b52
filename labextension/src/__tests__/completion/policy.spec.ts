import assert from 'node:assert/strict';
import { test } from 'node:test';

import { modeOf, strictest, worthAsking } from '../../completion/policy';

test('a notebook or a cell can forbid, and allow nothing that the settings forbid', () => {
  assert.equal(strictest('automatic', undefined), 'automatic');
  assert.equal(strictest('automatic', 'off'), 'off');
  assert.equal(strictest('manual', 'automatic'), 'manual');
  assert.equal(strictest(), 'automatic');
});

test('metadata that say nothing known say nothing', () => {
  assert.equal(modeOf({ mode: 'manual' }), 'manual');
  for (const metadata of [undefined, null, 'off', { mode: 'loud' }, {}]) {
    assert.equal(modeOf(metadata), undefined);
  }
});

test('after Enter it is worth asking where the line above opens something', () => {
  for (const prefix of ['if x:\n    ', '# the mean\n', 'f(\n    ', 'xs = [1,\n']) {
    assert.equal(worthAsking('smart', prefix), true, prefix);
  }
  for (const prefix of ['x = 1\n', 'if x:\n\n', '\n', '', 'if x:\n    y\n    ']) {
    assert.equal(worthAsking('smart', prefix), false, prefix);
  }
});

test('always is always, and off never', () => {
  assert.equal(worthAsking('always', 'x = 1\n'), true);
  assert.equal(worthAsking('off', 'if x:\n    '), false);
});
