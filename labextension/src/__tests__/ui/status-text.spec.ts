import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  describe,
  INSTALL,
  sentence,
  type ICircumstances,
  type Standing
} from '../../ui/status-text';

const READY: Standing = {
  stage: 'connected',
  channel: 'control',
  model: 'embedded',
  state: 'ready'
};

function text(standing: Standing, about: Partial<ICircumstances> = {}): string {
  return describe(standing, { busy: false, ...about }).text;
}

test('the status tells the model and its state', () => {
  assert.equal(text(READY), 'SC2: embedded · ready');
  assert.equal(text({ ...READY, precision: 'fp32' }), 'SC2: embedded fp32 · ready');
  assert.equal(text({ ...READY, state: 'unloaded' }), 'SC2: embedded · not loaded');
  assert.equal(text({ ...READY, state: 'error' }), 'SC2: embedded · error');
});

test('loading tells how far it is', () => {
  assert.equal(text({ ...READY, state: 'loading', progress: 0.434 }), 'SC2: loading 43 %');
  assert.equal(text({ ...READY, state: 'downloading' }), 'SC2: downloading');
});

test('a load tells what is done and the seconds it has taken', () => {
  const since = 10_000;
  const loading: Standing = { ...READY, state: 'loading', loading: { stage: 'importing', since } };
  assert.equal(text(loading, { now: 13_900 }), 'SC2: importing · 3 s');
  const reading: Standing = {
    ...loading,
    loading: { stage: 'loading', since },
    progress: 0.5
  };
  assert.equal(text(reading, { now: 14_000 }), 'SC2: loading 50 % · 4 s');
});

test('a load of less than a second tells no seconds', () => {
  const loading: Standing = { ...READY, state: 'loading', loading: { since: 10_000 } };
  assert.equal(text(loading, { now: 10_900 }), 'SC2: loading');
});

test('when a kernel was ready and the first suggestion came is told', () => {
  const firstMinute = { loaded: 0.17, ready: 1.24, firstText: 3.05 };
  const { title } = describe({ ...READY, firstMinute }, { busy: false });
  assert.match(title, /^It was loaded in 0\.2 s, ready 1\.2 s after the kernel's start\.$/m);
  assert.match(title, /^The first suggestion came 3\.0 s after the kernel's start\.$/m);
});

test('of a kernel that was ready before the page came nothing of the kind is told', () => {
  assert.equal(describe({ ...READY, firstMinute: {} }, { busy: false }).title, 'Model: embedded');
});

test('what became of the last request is told', () => {
  const outcomes = [
    ['asking', undefined, 'thinking'],
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
  const missing = describe({ stage: 'not installed' }, { busy: false });
  assert.equal(missing.text, 'SC2: not installed in this kernel');
  assert.ok(missing.title.includes(INSTALL));
  const failed = describe({ stage: 'failed', message: 'No torch.' }, { busy: false });
  assert.match(failed.title, /No torch\./);
  const other = describe({ stage: 'other protocol', version: '9.0' }, { busy: false });
  assert.match(other.title, /9\.0/);
});

test('a running cell is waited for on the shell only', () => {
  const shell: Standing = { ...READY, channel: 'shell' };
  assert.equal(text(READY, { busy: true }), 'SC2: embedded · ready');
  assert.equal(text(shell, { busy: true }), 'SC2: waiting for the running cell');
  assert.equal(text(shell), 'SC2: embedded · ready');
});

test('where the card does not name the language, the status and the sentence say so', () => {
  const outcome = { kind: 'nothing', reason: 'other_language' } as const;
  assert.equal(text(READY, { outcome }), 'SC2: embedded · other language');
  assert.match(sentence('other_language'), /does not name the language/);
});

test('a reason that is called like a member of every object is one that nobody knows', () => {
  for (const reason of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) {
    const said = reason.replace(/_/g, ' ');
    assert.equal(text(READY, { outcome: { kind: 'nothing', reason } }), `SC2: embedded · ${said}`);
    assert.equal(sentence(reason), `There is nothing to show (${said}).`);
  }
});
