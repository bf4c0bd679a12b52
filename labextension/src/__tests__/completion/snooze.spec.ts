import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { Snooze } from '../../completion/snooze';

test('a snooze ends after its minutes', () => {
  mock.timers.enable({ apis: ['Date', 'setInterval'] });
  let changes = 0;
  const snooze = new Snooze(() => changes++);
  assert.deepEqual([snooze.isActive, snooze.minutesLeft], [false, 0]);
  snooze.start(5);
  assert.deepEqual([snooze.isActive, snooze.minutesLeft], [true, 5]);
  mock.timers.tick(61_000);
  assert.equal(snooze.minutesLeft, 4);
  mock.timers.tick(4 * 60_000);
  assert.deepEqual([snooze.isActive, snooze.minutesLeft], [false, 0]);
  const after = changes;
  mock.timers.tick(60_000);
  assert.equal(changes, after);
  mock.timers.reset();
});

test('a snooze without an end lasts until it is ended', () => {
  let changes = 0;
  const snooze = new Snooze(() => changes++);
  snooze.start(Infinity);
  assert.deepEqual([snooze.isActive, snooze.minutesLeft], [true, Infinity]);
  snooze.end();
  assert.deepEqual([snooze.isActive, snooze.minutesLeft, changes], [false, 0, 2]);
});

test('a second snooze takes the place of the first', () => {
  mock.timers.enable({ apis: ['Date', 'setInterval'] });
  const snooze = new Snooze(() => undefined);
  snooze.start(5);
  snooze.start(30);
  mock.timers.tick(6 * 60_000);
  assert.deepEqual([snooze.isActive, snooze.minutesLeft], [true, 24]);
  snooze.end();
  mock.timers.reset();
});
