import assert from 'node:assert/strict';
import { test } from 'node:test';

import { modeOf, mostRestrictive, shouldTriggerAfterEnter } from '../../completion/policy';

test('a notebook or a cell can forbid completion, but not allow what the settings forbid', () => {
  assert.equal(mostRestrictive('automatic', undefined), 'automatic');
  assert.equal(mostRestrictive('automatic', 'off'), 'off');
  assert.equal(mostRestrictive('manual', 'automatic'), 'manual');
  assert.equal(mostRestrictive(), 'automatic');
});

test('metadata with no known mode have none', () => {
  assert.equal(modeOf({ mode: 'manual' }), 'manual');
  for (const metadata of [undefined, null, 'off', { mode: 'loud' }, {}]) {
    assert.equal(modeOf(metadata), undefined);
  }
});

test('the smart policy completes a new line where the line above opens something', () => {
  for (const prefix of ['if x:\n    ', '# the mean\n', 'f(\n    ', 'xs = [1,\n']) {
    assert.equal(shouldTriggerAfterEnter('smart', prefix), true, prefix);
  }
  for (const prefix of ['x = 1\n', 'if x:\n\n', '\n', '', 'if x:\n    y\n    ']) {
    assert.equal(shouldTriggerAfterEnter('smart', prefix), false, prefix);
  }
});

test('the policy always completes every new line, and off none', () => {
  assert.equal(shouldTriggerAfterEnter('always', 'x = 1\n'), true);
  assert.equal(shouldTriggerAfterEnter('off', 'if x:\n    '), false);
});

test('after Enter the rules of the language count', () => {
  const bash = { comment: '#', openers: '(?:(?:then|do)$|\\|$)' };
  const sql = { comment: '--', openers: '\\bselect$' };
  assert.equal(shouldTriggerAfterEnter('smart', 'for f in *; do\n', bash), true);
  assert.equal(shouldTriggerAfterEnter('smart', 'x = {:\n', bash), false);
  assert.equal(shouldTriggerAfterEnter('smart', '# list them\n', bash), true);
  assert.equal(shouldTriggerAfterEnter('smart', '# no comment\n', sql), false);
  assert.equal(shouldTriggerAfterEnter('smart', 'SELECT\n', sql), true);
});
