import assert from 'node:assert/strict';
import { test } from 'node:test';

import { learnStatus } from '../../kernel/kernel-status';
import { settle } from '../fakes';

/** A kernel whose page learns its status from the answer to a request, unless that gets lost. */
function kernel(status: string, lost = 0): any {
  const fake = {
    status,
    connectionStatus: 'connected',
    isDisposed: false,
    requests: 0,
    requestExecute: () => {
      fake.status = fake.requests++ < lost ? fake.status : 'idle';
      return { done: Promise.resolve(), dispose: () => undefined };
    }
  };
  return fake;
}

for (const status of ['unknown', 'starting']) {
  test(`a kernel that stays "${status}" is asked`, async () => {
    const fake = kernel(status);
    await learnStatus(fake, 0);
    assert.deepEqual([fake.status, fake.requests], ['idle', 1]);
  });
}

test('a kernel whose status is known is not asked', async () => {
  const fake = kernel('busy');
  await learnStatus(fake, 0);
  assert.equal(fake.requests, 0);
});

test('a kernel whose status comes by itself is not asked', async () => {
  const fake = kernel('starting');
  const learnt = learnStatus(fake, 20);
  fake.status = 'idle';
  await learnt;
  assert.equal(fake.requests, 0);
});

test('a status that gets lost is requested again', async () => {
  const fake = kernel('starting', 1);
  await learnStatus(fake, 0);
  assert.equal(fake.requests, 2);
});

test('a kernel is asked once for all of its documents', async () => {
  const fake = kernel('starting');
  await Promise.all([learnStatus(fake, 0), learnStatus(fake, 0)]);
  assert.equal(fake.requests, 1);
});

test('a kernel that is not connected is asked once it is', async () => {
  const fake = kernel('unknown');
  fake.connectionStatus = 'connecting';
  const learnt = learnStatus(fake, 0);
  await settle(20);
  assert.equal(fake.requests, 0);
  fake.connectionStatus = 'connected';
  await learnt;
  assert.equal(fake.requests, 1);
});

test('a kernel that is gone is not asked', async () => {
  const fake = kernel('starting');
  fake.isDisposed = true;
  await learnStatus(fake, 0);
  assert.equal(fake.requests, 0);
});
