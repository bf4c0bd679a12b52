import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ConnectionState, IConnected } from '../../kernel/connection-state';
import { statusText, INSTALL, reasonText, type IStatusDetails } from '../../ui/status-text';

const READY: IConnected = {
  stage: 'connected',
  channel: 'control',
  model: 'embedded',
  modelState: 'ready'
};

function text(state: ConnectionState, about: Partial<IStatusDetails> = {}): string {
  return statusText(state, { busy: false, ...about }).text;
}

test('the status tells the model and its state', () => {
  assert.equal(text(READY), 'SC2: embedded · ready');
  assert.equal(text({ ...READY, precision: 'fp32' }), 'SC2: embedded fp32 · ready');
  assert.equal(text({ ...READY, modelState: 'unloaded' }), 'SC2: embedded · not loaded');
  assert.equal(text({ ...READY, modelState: 'error' }), 'SC2: embedded · error');
});

test('loading tells how far it is', () => {
  assert.equal(text({ ...READY, modelState: 'loading', progress: 0.434 }), 'SC2: loading 43 %');
  assert.equal(text({ ...READY, modelState: 'downloading' }), 'SC2: downloading');
});

test('a load tells what is done and the seconds it has taken', () => {
  const since = 10_000;
  const loading: ConnectionState = {
    ...READY,
    modelState: 'loading',
    loading: { stage: 'importing', since }
  };
  assert.equal(text(loading, { now: 13_900 }), 'SC2: importing · 3 s');
  const reading: ConnectionState = {
    ...loading,
    loading: { stage: 'loading', since },
    progress: 0.5
  };
  assert.equal(text(reading, { now: 14_000 }), 'SC2: loading 50 % · 4 s');
});

test('a load of less than a second tells no seconds', () => {
  const loading: ConnectionState = { ...READY, modelState: 'loading', loading: { since: 10_000 } };
  assert.equal(text(loading, { now: 10_900 }), 'SC2: loading');
});

test('when a kernel was ready and the first suggestion came is told', () => {
  const startupTimes = { loadSeconds: 0.17, readySeconds: 1.24, firstSuggestionSeconds: 3.05 };
  const { tooltip } = statusText({ ...READY, startupTimes }, { busy: false });
  assert.match(tooltip, /^It was loaded in 0\.2 s, ready 1\.2 s after the kernel's start\.$/m);
  assert.match(tooltip, /^The first suggestion came 3\.0 s after the kernel's start\.$/m);
});

test('of a kernel that was ready before the page came nothing of the kind is told', () => {
  assert.equal(
    statusText({ ...READY, startupTimes: {} }, { busy: false }).tooltip,
    'Model: embedded'
  );
});

test('what became of the last request is told', () => {
  const outcomes = [
    ['generating', undefined, 'thinking'],
    ['shown', undefined, 'ready'],
    ['nothing', 'low_confidence', 'low confidence'],
    ['nothing', 'nothing_to_add', 'nothing to add'],
    ['nothing', 'some_day', 'some day'],
    ['timed out', undefined, 'timed out'],
    ['error', 'Out of memory.', 'error']
  ] as const;
  for (const [kind, reason, said] of outcomes) {
    assert.equal(text(READY, { outcome: { kind, reason } }), `SC2: embedded · ${said}`);
  }
});

test('what keeps completion away is told, with what helps', () => {
  assert.equal(text(READY, { mode: 'off' }), 'SC2: off');
  assert.equal(text(READY, { mode: 'manual' }), 'SC2: embedded · on demand');
  assert.equal(text({ stage: 'not Python' }), 'SC2: not for this kernel');
  const missing = statusText({ stage: 'not installed' }, { busy: false });
  assert.equal(missing.text, 'SC2: not installed in this kernel');
  assert.ok(missing.tooltip.includes(INSTALL));
  const failed = statusText({ stage: 'failed', message: 'No torch.' }, { busy: false });
  assert.match(failed.tooltip, /No torch\./);
  const other = statusText({ stage: 'version mismatch', version: '9.0' }, { busy: false });
  assert.match(other.tooltip, /9\.0/);
});

test('a running cell is waited for on the shell only', () => {
  const shell: ConnectionState = { ...READY, channel: 'shell' };
  assert.equal(text(READY, { busy: true }), 'SC2: embedded · ready');
  assert.equal(text(shell, { busy: true }), 'SC2: waiting for the running cell');
  assert.equal(text(shell), 'SC2: embedded · ready');
});

test('where the card does not name the language, the status and the sentence say so', () => {
  const outcome = { kind: 'nothing', reason: 'other_language' } as const;
  assert.equal(text(READY, { outcome }), 'SC2: embedded · other language');
  assert.match(reasonText('other_language'), /does not name the language/);
});

test('a reason that is called like a member of every object is one that nobody knows', () => {
  for (const reason of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) {
    const said = reason.replace(/_/g, ' ');
    assert.equal(text(READY, { outcome: { kind: 'nothing', reason } }), `SC2: embedded · ${said}`);
    assert.equal(reasonText(reason), `There is nothing to show (${said}).`);
  }
});
