import assert from 'node:assert/strict';
import { test } from 'node:test';

import { KernelClient } from '../../kernel/client';
import type { Channel, DownMessage, ICell, IUpdate } from '../../kernel/protocol';
import { FakeKernel, settle, type ISent } from '../fakes';

const CHANNELS: Channel[] = ['control', 'subshell', 'shell'];

const QUERY = { cell_id: 'a', text: 'pri', offset: 3, trigger: 'automatic' as const };

const CELLS: ICell[] = [{ id: 'a', cell_type: 'code', source: 'pri', execution_count: null }];

function hello(channel: Channel): DownMessage {
  return { type: 'hello', protocol: 1, version: '0', channel, model: 'm', state: 'ready' };
}

function update(id: string, text: string, finish_reason: IUpdate['finish_reason'] = null): IUpdate {
  return { type: 'update', id, index: 0, text, finish_reason };
}

/** A kernel that says hello on one channel only. */
function kernelOn(channel: Channel, supportsSubshells = true): FakeKernel {
  const kernel = new FakeKernel();
  kernel.supportsSubshells = supportsSubshells;
  kernel.answer = (sent: ISent) =>
    sent.channel === channel && sent.type === 'comm_msg' && sent.data.type === 'hello'
      ? [hello(channel)]
      : [];
  return kernel;
}

async function connected(kernel = kernelOn('control')): Promise<KernelClient> {
  const client = new KernelClient(kernel.connection(), { timeoutMs: 10 });
  assert.ok(await client.connect(CHANNELS));
  kernel.sent = [];
  return client;
}

async function texts(updates: AsyncGenerator<IUpdate>): Promise<string[]> {
  const all: string[] = [];
  for await (const { text } of updates) {
    all.push(text);
  }
  return all;
}

test('the control channel is tried first, and without a subshell', async () => {
  const kernel = kernelOn('control');
  const client = new KernelClient(kernel.connection(), { timeoutMs: 10 });
  assert.equal(await client.connect(CHANNELS), true);
  assert.equal(client.hello?.channel, 'control');
  assert.deepEqual(new Set(kernel.sent.map(({ channel }) => channel)), new Set(['control']));
  assert.equal(kernel.comm?.commsOverSubshells, 'disabled');
});

test('a kernel that does not answer on control is tried on a subshell, then on the shell', async () => {
  const subshell = new KernelClient(kernelOn('subshell').connection(), { timeoutMs: 10 });
  assert.ok(await subshell.connect(CHANNELS));
  assert.equal(subshell.hello?.channel, 'subshell');
  const shell = new KernelClient(kernelOn('shell', false).connection(), { timeoutMs: 10 });
  assert.ok(await shell.connect(CHANNELS));
  assert.equal(shell.hello?.channel, 'shell');
});

test('a hello while a model loads says what is being done, and for how long', async () => {
  const kernel = new FakeKernel();
  const loading = { state: 'loading' as const, stage: 'importing' as const, seconds: 2 };
  const reply = { ...hello('control'), ...loading } as DownMessage;
  kernel.answer = ({ data }) => (data.type === 'hello' ? [reply] : []);
  const client = await connected(kernel);
  assert.equal(client.status?.stage, 'importing');
  assert.equal(client.status?.seconds, 2);
});

test('a hello brings the message of the status, such as that code leaves the machine', async () => {
  const kernel = new FakeKernel();
  const message = 'Code leaves this machine: it is sent to example.org.';
  const reply = { ...hello('control'), message } as DownMessage;
  kernel.answer = ({ data }) => (data.type === 'hello' ? [reply] : []);
  const client = await connected(kernel);
  assert.equal(client.status?.message, message);
});

test('a subshell that does not start is given up', async () => {
  const kernel = kernelOn('shell');
  const create = kernel.createComm.bind(kernel);
  kernel.createComm = () =>
    Object.assign(create(), { subshellStarted: new Promise<void>(() => undefined) });
  const client = new KernelClient(kernel.connection(), { timeoutMs: 10 });
  assert.ok(await client.connect(CHANNELS));
  assert.equal(client.hello?.channel, 'shell');
});

test('the hello of a busy kernel is waited for, that of an idle one not for long', async () => {
  const kernel = new FakeKernel();
  kernel.status = 'busy';
  const client = new KernelClient(kernel.connection(), { timeoutMs: 10 });
  let result: boolean | null = null;
  void client.connect(['control']).then(value => (result = value));
  await settle(60);
  assert.equal(result, null);
  kernel.status = 'idle';
  await settle(60);
  assert.equal(result, false);
});

test("the hello carries JupyterLab's settings for every kernel, and the answer those of this one", async () => {
  const kernel = kernelOn('control');
  const client = new KernelClient(kernel.connection(), {
    timeoutMs: 10,
    labSettings: () => ({ top_k: 5 })
  });
  const answer = kernel.answer;
  kernel.answer = sent =>
    answer(sent).map(message => ({ ...message, settings: { top_k: 7 } }) as DownMessage);
  await client.connect(['control']);
  const said = kernel.sent.find(({ data }) => data.type === 'hello')!.data;
  assert.deepEqual('settings' in said && said.settings, { top_k: 5 });
  assert.deepEqual(client.settings, { top_k: 7 });
  client.sendLabSettings();
  assert.deepEqual(kernel.sent[kernel.sent.length - 1].data, {
    type: 'configure',
    settings: { top_k: 5 },
    scope: 'all'
  });
});

test('changes of the kernel settings are followed, and that they were saved is passed on', async () => {
  const kernel = kernelOn('control');
  const saved: unknown[] = [];
  const client = new KernelClient(kernel.connection(), {
    timeoutMs: 10,
    onSaved: (...values) => saved.push(values)
  });
  await client.connect(['control']);
  kernel.say({ type: 'settings', settings: { mode: 'off' } });
  assert.deepEqual(client.settings, { mode: 'off' });
  assert.deepEqual(saved, []);
  kernel.say({ type: 'settings', settings: { mode: 'manual' }, saved: true });
  assert.deepEqual(saved, [[true, { mode: 'manual' }]]);
});

test('the updates of a completion come until it is finished', async () => {
  const kernel = kernelOn('control');
  const client = await connected(kernel);
  kernel.answer = ({ data }) =>
    data.type === 'complete' ? [update(data.id, 'nt'), update(data.id, 'nt()', 'stop')] : [];
  assert.deepEqual(await texts(client.complete(QUERY, CELLS, new AbortController().signal)), [
    'nt',
    'nt()'
  ]);
  assert.deepEqual(kernel.types, ['notebook', 'complete']);
});

test('the notebook is sent once, and again as a whole when the kernel has lost it', async () => {
  const kernel = kernelOn('control');
  const client = await connected(kernel);
  kernel.answer = ({ data }) => (data.type === 'complete' ? [update(data.id, '', 'stop')] : []);
  const ask = () => texts(client.complete(QUERY, CELLS, new AbortController().signal));
  await ask();
  await ask();
  assert.deepEqual(kernel.types, ['notebook', 'complete', 'complete']);
  kernel.say({ type: 'error', code: 'unknown_base', message: 'Send it whole.' });
  await ask();
  assert.deepEqual(kernel.types.slice(3), ['notebook', 'complete']);
  assert.equal('base' in kernel.sent[3].data, false);
});

test('aborting cancels in the kernel and ends at once', async () => {
  const kernel = kernelOn('control');
  const client = await connected(kernel);
  const abort = new AbortController();
  const all = texts(client.complete(QUERY, CELLS, abort.signal));
  await settle();
  abort.abort();
  assert.deepEqual(await all, ['']);
  assert.deepEqual(kernel.types, ['notebook', 'complete', 'cancel']);
});

test("the kernel's error is thrown to the request it belongs to, and to no other", async () => {
  const kernel = kernelOn('control');
  const client = await connected(kernel);
  kernel.answer = ({ data }) =>
    data.type === 'complete' && data.text === 'bad'
      ? [{ type: 'error', id: data.id, code: 'model', message: 'No such model.' }]
      : [];
  const { signal } = new AbortController();
  const other = texts(client.complete(QUERY, CELLS, signal));
  await assert.rejects(
    texts(client.complete({ ...QUERY, text: 'bad' }, CELLS, signal)),
    /No such model\./
  );
  client.dispose();
  assert.deepEqual(await other, ['']);
});

test('a kernel that closes the comm ends all requests, and the client reports it', async () => {
  const kernel = kernelOn('control');
  let closed = 0;
  const client = new KernelClient(kernel.connection(), { timeoutMs: 10, onClose: () => closed++ });
  await client.connect(CHANNELS);
  const all = texts(client.complete(QUERY, CELLS, new AbortController().signal));
  await settle();
  kernel.comm?.onClose();
  assert.deepEqual(await all, ['']);
  assert.equal(closed, 1);
  assert.equal(client.hello, null);
});

test('a dead kernel throws no error', async () => {
  const kernel = kernelOn('control');
  const client = await connected(kernel);
  kernel.sendControlMessage = () => {
    throw new Error('Kernel is dead');
  };
  assert.deepEqual(await texts(client.complete(QUERY, CELLS, new AbortController().signal)), ['']);
  client.dispose();
});

test('status messages are reported, unknown ones are not', async () => {
  const kernel = kernelOn('control');
  let reported = 0;
  const client = new KernelClient(kernel.connection(), {
    timeoutMs: 10,
    onStatus: () => reported++
  });
  await client.connect(CHANNELS);
  kernel.say({ type: 'status', state: 'loading', model: 'm', engine: 'e', progress: 0.5 });
  kernel.say({ type: 'novel' } as unknown as DownMessage);
  assert.equal(reported, 2);
  assert.equal(client.status?.progress, 0.5);
});
