import assert from 'node:assert/strict';
import { test } from 'node:test';

import { describe, type Standing } from '../standing';

const READY: Standing = {
  stage: 'connected',
  channel: 'control',
  model: 'embedded',
  state: 'ready'
};

function text(standing: Standing, enabled = true, busy = false): string {
  return describe(standing, enabled, busy).text;
}

test('the status tells the model and its state', () => {
  assert.equal(text(READY), 'SC2: embedded · ready');
  assert.equal(text({ ...READY, state: 'generating' }), 'SC2: embedded · generating');
});

test('loading tells how far it is', () => {
  assert.equal(text({ ...READY, state: 'loading', progress: 0.434 }), 'SC2: loading 43 %');
  assert.equal(text({ ...READY, state: 'downloading' }), 'SC2: downloading');
});

test('what keeps completion away is told', () => {
  assert.equal(text(READY, false), 'SC2: off');
  assert.equal(text({ stage: 'not installed' }), 'SC2: not installed in this kernel');
  assert.match(
    describe({ stage: 'failed', message: 'No torch.' }, true, false).title,
    /No torch\./
  );
});

test('a running cell is waited for on the shell only', () => {
  assert.equal(text(READY, true, true), 'SC2: embedded · ready');
  assert.equal(
    text({ ...READY, channel: 'shell' }, true, true),
    'SC2: waiting for the running cell'
  );
  assert.equal(text({ ...READY, channel: 'shell' }, true, false), 'SC2: embedded · ready');
});
