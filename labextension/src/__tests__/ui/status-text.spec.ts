import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ConnectionState, IConnected } from '../../kernel/connection-state';
import { statusText, reasonText, type IStatusDetails } from '../../ui/status-text';
import { ENGLISH } from '../fakes';

const READY: IConnected = {
  stage: 'connected',
  channel: 'control',
  model: 'embedded',
  modelState: 'ready'
};

function text(state: ConnectionState, about: Partial<IStatusDetails> = {}): string {
  return statusText(state, { busy: false, ...about }, ENGLISH).text;
}

test('the status names the model and its state', () => {
  assert.equal(text(READY), 'SC2: embedded · ready');
  assert.equal(text({ ...READY, precision: 'fp32' }), 'SC2: embedded fp32 · ready');
  assert.equal(text({ ...READY, modelState: 'unloaded' }), 'SC2: embedded · not loaded');
  assert.equal(text({ ...READY, modelState: 'error' }), 'SC2: embedded · error');
});

test('the status of a load says how far it is', () => {
  assert.equal(text({ ...READY, modelState: 'loading', progress: 0.434 }), 'SC2: loading 43%');
  assert.equal(text({ ...READY, modelState: 'downloading' }), 'SC2: downloading model');
});

test('the status of a load says what is being done and for how many seconds', () => {
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
  assert.equal(text(reading, { now: 14_000 }), 'SC2: loading 50% · 4 s');
});

test('the status of a load of less than a second names no seconds', () => {
  const loading: ConnectionState = { ...READY, modelState: 'loading', loading: { since: 10_000 } };
  assert.equal(text(loading, { now: 10_900 }), 'SC2: loading model');
  assert.equal(text(loading, { now: 12_100 }), 'SC2: loading model · 2 s');
});

test('the weights of the embedded model are called 4-bit', () => {
  assert.equal(text({ ...READY, precision: 'packed' }), 'SC2: embedded 4-bit · ready');
});

test('no line of the status is longer than 60 characters', () => {
  const states: ConnectionState[] = [
    { stage: 'no kernel' },
    { stage: 'not Python' },
    { stage: 'connecting' },
    { stage: 'waiting' },
    { stage: 'not loaded' },
    { stage: 'not installed' },
    { stage: 'not allowed' },
    { stage: 'version mismatch', version: '10.10.10' },
    { stage: 'not responding' },
    { ...READY, modelState: 'unloaded' },
    { ...READY, modelState: 'downloading', loading: { since: 0 } },
    { ...READY, modelState: 'loading', loading: { stage: 'importing', since: 0 } },
    {
      ...READY,
      startupTimes: { loadSeconds: 10.17, readySeconds: 10.24, firstSuggestionSeconds: 13.05 }
    }
  ];
  const reasons = [
    ...['disabled', 'low_confidence', 'not_allowed', 'not_ready', 'nothing_to_add', 'queue_full'],
    ...['other_language', 'refuted', 'matches_indexed_code']
  ];
  const all = [
    ...states.map(state =>
      statusText(state, { busy: false, now: 99_000, install: '%pip install jupyter-sc2' }, ENGLISH)
    ),
    ...reasons.map(reason =>
      statusText(READY, { busy: false, outcome: { kind: 'nothing', reason } }, ENGLISH)
    ),
    statusText(READY, { busy: false, outcome: { kind: 'timed out' } }, ENGLISH),
    statusText(READY, { busy: false, mode: 'manual' }, ENGLISH),
    statusText(READY, { busy: false, mode: 'off' }, ENGLISH)
  ];
  const lines = all.flatMap(({ text, tooltip }) => [text, ...tooltip.split('\n')]);
  assert.deepEqual(
    lines.filter(line => line.length > 60),
    []
  );
});

test('the tooltip says when a kernel was ready and when the first suggestion came', () => {
  const startupTimes = { loadSeconds: 0.17, readySeconds: 1.24, firstSuggestionSeconds: 3.05 };
  const { tooltip } = statusText({ ...READY, startupTimes }, { busy: false }, ENGLISH);
  assert.match(tooltip, /^Loaded in 0\.2 s, ready 1\.2 s after the kernel started\.$/m);
  assert.match(tooltip, /^First suggestion 3\.0 s after the kernel started\.$/m);
});

test('the tooltip says nothing of that for a kernel that was ready before the page came', () => {
  assert.equal(
    statusText({ ...READY, startupTimes: {} }, { busy: false }, ENGLISH).tooltip,
    'Model: embedded'
  );
});

test('the status says what became of the last request', () => {
  const outcomes = [
    ['generating', undefined, 'generating'],
    ['shown', undefined, 'ready'],
    ['nothing', 'low_confidence', 'low confidence'],
    ['nothing', 'nothing_to_add', 'no suggestion'],
    ['nothing', 'some_day', 'some day'],
    ['timed out', undefined, 'timed out'],
    ['error', 'Out of memory.', 'error']
  ] as const;
  for (const [kind, reason, said] of outcomes) {
    assert.equal(text(READY, { outcome: { kind, reason } }), `SC2: embedded · ${said}`);
  }
});

test('the status says why nothing is completed, and the tooltip what helps', () => {
  assert.equal(text(READY, { mode: 'off' }), 'SC2: off');
  assert.equal(text(READY, { mode: 'manual' }), 'SC2: embedded · on demand');
  assert.equal(text({ stage: 'not Python' }), 'SC2: Python kernels only');
  const install = '%pip install /here/jupyter-sc2';
  const missing = statusText({ stage: 'not installed' }, { busy: false, install }, ENGLISH);
  assert.equal(missing.text, 'SC2: not installed in this kernel');
  assert.ok(missing.tooltip.includes(install));
  const failed = statusText({ stage: 'failed', message: 'No torch.' }, { busy: false }, ENGLISH);
  assert.match(failed.tooltip, /No torch\./);
  const other = statusText({ stage: 'version mismatch', version: '9.0' }, { busy: false }, ENGLISH);
  assert.match(other.tooltip, /9\.0/);
});

test('a snooze says how long it lasts', () => {
  const snoozed = (snoozedMinutes: number) => text(READY, { mode: 'manual', snoozedMinutes });
  assert.equal(snoozed(5), 'SC2: embedded · snoozed, 5 min left');
  assert.equal(snoozed(Infinity), 'SC2: embedded · snoozed');
  assert.equal(snoozed(0), 'SC2: embedded · on demand');
});

test('a running cell is waited for on the shell only', () => {
  const shell: ConnectionState = { ...READY, channel: 'shell' };
  assert.equal(text(READY, { busy: true }), 'SC2: embedded · ready');
  assert.equal(text(shell, { busy: true }), 'SC2: waiting for the running cell');
  assert.equal(text(shell), 'SC2: embedded · ready');
});

test('a language that the model does not support is named as the reason', () => {
  const outcome = { kind: 'nothing', reason: 'other_language' } as const;
  assert.equal(text(READY, { outcome }), 'SC2: embedded · unsupported language');
  assert.match(reasonText('other_language', ENGLISH), /does not support the language/);
});

test('a reason with the name of a member of every object is not taken for a known one', () => {
  for (const reason of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) {
    const said = reason.replace(/_/g, ' ');
    assert.equal(text(READY, { outcome: { kind: 'nothing', reason } }), `SC2: embedded · ${said}`);
    assert.equal(reasonText(reason, ENGLISH), `There is no suggestion (${said}).`);
  }
});

test('the seconds of a load have a plural', () => {
  const tooltip = (seconds: number) =>
    statusText(
      { ...READY, modelState: 'loading', loading: { since: 0 } },
      { busy: false, now: 1000 * seconds },
      ENGLISH
    ).tooltip;
  assert.match(tooltip(1), /^1 second so far\.$/m);
  assert.match(tooltip(2), /^2 seconds so far\.$/m);
});

test('every text comes from the translator', () => {
  const marked = {
    __: (...args: Parameters<typeof ENGLISH.__>) => `«${ENGLISH.__(...args)}»`,
    _n: (...args: Parameters<typeof ENGLISH._n>) => `«${ENGLISH._n(...args)}»`
  } as typeof ENGLISH;
  const states: ConnectionState[] = [
    { stage: 'no kernel' },
    { stage: 'not Python' },
    { stage: 'connecting' },
    { stage: 'waiting' },
    { stage: 'not loaded' },
    { stage: 'not installed' },
    { stage: 'not allowed' },
    { stage: 'not responding' },
    { stage: 'version mismatch', version: '9' },
    { ...READY, modelState: 'error' },
    { ...READY, modelState: 'unloaded' },
    { ...READY, modelState: 'loading', loading: { stage: 'importing', since: 0 } }
  ];
  for (const state of states) {
    const { text, tooltip } = statusText(state, { busy: false, now: 5000 }, marked);
    assert.match(text, /^SC2: «.*»$/);
    tooltip.split('\n').forEach(line => assert.match(line, /^«.*»$/));
  }
});

test('the status says that the companion completes', () => {
  const companion: ConnectionState = { ...READY, isCompanion: true };
  assert.equal(text(companion), 'SC2: companion · embedded · ready');
  assert.equal(
    text({ ...companion, modelState: 'unloaded' }),
    'SC2: companion · embedded · not loaded'
  );
  assert.equal(text({ ...companion, modelState: 'loading' }), 'SC2: companion · loading model');
  const outcome = { kind: 'nothing', reason: 'other_language' } as const;
  assert.equal(text(companion, { outcome }), 'SC2: companion · embedded · unsupported language');
});

test('the status says whether the companion is coming or was shut down', () => {
  assert.equal(
    text({ stage: 'no kernel' }, { companion: 'starting' }),
    'SC2: companion · starting'
  );
  assert.equal(text({ stage: 'no kernel' }, { companion: 'ended' }), 'SC2: companion · stopped');
});

test('the companion of a kernel without the package says how to install it there', () => {
  const companion: ConnectionState = { ...READY, isCompanion: true };
  const details = { busy: false, isMissing: true, install: '%pip install jupyter-sc2' };
  const { tooltip } = statusText(companion, details, ENGLISH);
  assert.match(tooltip, /Run %pip install jupyter-sc2 and restart the kernel\./);
  assert.doesNotMatch(statusText(companion, { busy: false }, ENGLISH).tooltip, /Run/);
});
