import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Signal } from '@lumino/signaling';

import { Connection, type IKernelSource } from '../../kernel/connection';
import { FakeKernel, settle } from '../fakes';

/** A Python kernel that has the package, and counts what it is asked before the hello. */
class PythonKernel extends FakeKernel {
  spec = Promise.resolve({ language: 'python' });
  asked: string[] = [];

  constructor(private _isLoaded = false) {
    super();
    this.answer = ({ data }) =>
      data.type === 'hello'
        ? [
            {
              type: 'hello',
              protocol: 1,
              version: '1',
              channel: 'control',
              model: 'embedded',
              state: 'ready'
            }
          ]
        : [];
  }

  async requestCommInfo() {
    this.asked.push('comm_info');
    return { content: { status: 'ok', comms: this._isLoaded ? { one: {} } : {} } };
  }

  requestExecute() {
    this.asked.push('execute');
    const value = { status: 'ok', data: { 'text/plain': 'True' } };
    return {
      done: Promise.resolve({ content: { status: 'ok', user_expressions: { sc2: value } } })
    };
  }
}

function connect(kernel: PythonKernel) {
  const context = {
    path: 'a.ipynb',
    session: { kernel },
    kernelChanged: new Signal<object, unknown>({}),
    statusChanged: new Signal<object, any>({}),
    iopubMessage: new Signal<object, any>({})
  };
  const connection = new Connection(context as unknown as IKernelSource, {
    isRunningCells: () => false,
    mayLoad: () => true,
    labSettings: () => ({}),
    onSaved: () => undefined,
    onStale: () => undefined,
    onError: () => undefined
  });
  const say = (status: string) => {
    kernel.status = status;
    context.statusChanged.emit(status);
  };
  const publish = (session: string, content: object, msg_type = 'status') =>
    context.iopubMessage.emit({ header: { msg_type, session }, parent_header: {}, content });
  return { connection, say, publish };
}

test('a fresh kernel is connected as soon as it is idle, and is asked one thing before', async () => {
  const kernel = new PythonKernel();
  kernel.status = 'starting';
  const { connection, say } = connect(kernel);
  say('starting');
  await settle(20);
  assert.deepEqual(kernel.asked, []);
  say('idle');
  await settle(20);
  assert.deepEqual(kernel.asked, ['execute']);
  await settle(100);
  assert.equal(connection.state.stage, 'connected');
  connection.dispose();
});

test('a kernel that was running is first asked whether the extension is loaded', async () => {
  const kernel = new PythonKernel(true);
  const { connection } = connect(kernel);
  await settle(150);
  assert.deepEqual(kernel.asked, ['comm_info']);
  assert.equal(connection.state.stage, 'connected');
  connection.dispose();
});

test('a kernel that becomes busy again before it is asked is waited for', async () => {
  const kernel = new PythonKernel();
  kernel.status = 'busy';
  const { connection, say } = connect(kernel);
  say('starting');
  say('busy');
  await settle(150);
  assert.deepEqual(kernel.asked, []);
  say('idle');
  await settle(150);
  assert.equal(connection.state.stage, 'connected');
  connection.dispose();
});

test('a kernel that was restarted unnoticed is connected again at its next message', async () => {
  const kernel = new PythonKernel();
  const { connection, publish } = connect(kernel);
  publish('one', { execution_state: 'idle' });
  await settle(150);
  assert.equal(connection.state.stage, 'connected');
  const { client } = connection;
  publish('one', { execution_state: 'busy' });
  assert.equal(connection.client, client);
  publish('two', { execution_state: 'busy' });
  assert.equal(connection.client, null);
  await settle(150);
  assert.equal(connection.state.stage, 'connected');
  connection.dispose();
});

test('what the server says in the name of the kernel is not taken for a restart', async () => {
  const { connection, publish } = connect(new PythonKernel());
  publish('one', { execution_state: 'idle' });
  await settle(150);
  const { client } = connection;
  publish('server', { name: 'stderr', text: 'IOPub data rate exceeded.' }, 'stream');
  publish('one', { execution_state: 'idle' });
  assert.equal(connection.client, client);
  connection.dispose();
});
