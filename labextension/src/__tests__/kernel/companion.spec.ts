import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Signal } from '@lumino/signaling';

import { Companion, COMPANION } from '../../kernel/companion';
import { settle } from '../fakes';

interface IModel {
  id: string;
  type: string;
  kernel: { id: string; name: string };
}

/** The sessions and kernels of a server, which several pages may see. */
class FakeServer {
  models: IModel[] = [];
  started: string[] = [];

  /** How often a page has looked which sessions are running. */
  looks = 0;
  connections = new Map<string, number>();

  /** What each page does from time to time: it looks which sessions are running. */
  polls: (() => void)[] = [];

  names = ['python3', 'other', 'R'];

  /** What starting a kernel of this name fails with. */
  failures: Record<string, object> = {};

  page() {
    const runningChanged = new Signal<object, IModel[]>({});
    this.polls.push(() => void runningChanged.emit(this.models));
    const connectTo = ({ model }: { model: IModel }) => {
      this.connections.set(model.id, (this.connections.get(model.id) ?? 0) + 1);
      const session = {
        id: model.id,
        kernel: { name: model.kernel.name },
        dispose: () => {
          this.connections.set(model.id, this.connections.get(model.id)! - 1);
          session.disposed.emit();
        },
        shutdown: async () => this.end(model.id)
      } as any;
      for (const name of ['disposed', 'statusChanged', 'iopubMessage']) {
        session[name] = new Signal<object, any>(session);
      }
      return session;
    };
    const services: any = {
      sessions: {
        ready: Promise.resolve(),
        runningChanged,
        refreshRunning: async () => {
          this.looks++;
          runningChanged.emit(this.models);
        },
        running: () => this.models,
        connectTo,
        startNew: async ({ type, kernel }: any) => {
          this.started.push(kernel.name);
          if (kernel.name in this.failures) {
            throw this.failures[kernel.name];
          }
          const id = `s${9 - this.started.length}`;
          await settle();
          const model = { id, type, kernel: { id: `k-${id}`, name: kernel.name } };
          this.models = [...this.models, model];
          await services.sessions.refreshRunning();
          return connectTo({ model });
        },
        shutdown: async (id: string) => this.end(id)
      },
      kernels: {
        refreshRunning: async () => undefined,
        running: () =>
          this.models.map(({ id, kernel }) => ({
            id: kernel.id,
            connections: this.connections.get(id) ?? 0
          }))
      },
      kernelspecs: {
        ready: Promise.resolve(),
        specs: {
          default: 'other',
          kernelspecs: Object.fromEntries(
            this.names.map(name => [name, { language: name === 'R' ? 'R' : 'python' }])
          )
        }
      }
    };
    return new Companion(services, 5, 5);
  }

  end(id: string) {
    this.models = this.models.filter(model => model.id !== id);
  }
}

test('nothing is started before a document requires it, and one for all of them', async () => {
  const server = new FakeServer();
  const companion = server.page();
  await settle(100);
  assert.deepEqual(server.started, []);
  for (let i = 0; i < 10; i++) {
    companion.require({});
  }
  await settle(100);
  assert.deepEqual(server.started, ['python3']);
  assert.equal(companion.stage, 'running');
  assert.equal(server.models[0].type, COMPANION.type);
});

test('a start takes one look at what runs before, and one after', async () => {
  const server = new FakeServer();
  server.page().require({});
  await settle(100);
  assert.equal(server.looks, 2);
});

test('it ends when no document requires it', async () => {
  const server = new FakeServer();
  const companion = server.page();
  const documents = [{}, {}];
  documents.forEach(each => companion.require(each));
  await settle(100);
  companion.release(documents[0]);
  await settle(200);
  assert.equal(server.models.length, 1);
  companion.release(documents[1]);
  await settle(200);
  assert.equal(server.models.length, 0);
});

test('it stays while another page uses it', async () => {
  const server = new FakeServer();
  const [first, second] = [server.page(), server.page()];
  const document = {};
  first.require(document);
  await settle(100);
  second.require({});
  await settle(100);
  assert.deepEqual(server.started, ['python3']);
  first.release(document);
  await settle(200);
  assert.equal(server.models.length, 1);
});

test('two pages that start one at the same moment come to share it', async () => {
  const server = new FakeServer();
  const [first, second] = [server.page(), server.page()];
  first.require({});
  second.require({});
  await settle(100);
  assert.equal(server.started.length, 2);
  server.polls.forEach(poll => poll());
  await settle(100);
  assert.equal(server.models.length, 1);
  assert.equal(first.session?.id, second.session?.id);
});

test('a kernel that lacks the package is replaced by that of the next kernelspec', async () => {
  const server = new FakeServer();
  const companion = server.page();
  companion.require({});
  await settle(100);
  companion.reject(companion.session!.kernel!);
  await settle(100);
  assert.deepEqual(server.started, ['python3', 'other']);
  companion.reject(companion.session!.kernel!);
  await settle(100);
  assert.equal(companion.stage, 'unavailable');
  assert.deepEqual(server.models, []);
  companion.require({});
  await settle(100);
  assert.equal(server.started.length, 2);
});

test('one that was shut down is started again when a document requires it again', async () => {
  const server = new FakeServer();
  const companion = server.page();
  const document = {};
  companion.require(document);
  await settle(100);
  server.end(companion.session!.id);
  companion.session!.dispose();
  assert.equal(companion.stage, 'ended');
  companion.require(document);
  await settle(100);
  assert.equal(companion.stage, 'running');
});

test('one whose kernel has died is started again, and the dead one is shut down', async () => {
  const server = new FakeServer();
  const companion = server.page();
  companion.require({});
  await settle(100);
  (companion.session!.statusChanged as Signal<any, any>).emit('dead');
  await settle(100);
  assert.equal(companion.stage, 'ended');
  assert.deepEqual(server.models, []);
  companion.require({});
  await settle(100);
  assert.equal(companion.stage, 'running');
});

test('a kernel that the server cannot start is passed over', async () => {
  const server = new FakeServer();
  server.failures = { python3: { response: { status: 500 } } };
  const companion = server.page();
  companion.require({});
  await settle(100);
  assert.deepEqual(server.started, ['python3', 'other']);
  assert.equal(companion.stage, 'running');
});

test('a server that cannot be reached is tried again with the next key', async () => {
  const server = new FakeServer();
  server.failures = { python3: new TypeError('Failed to fetch') };
  const companion = server.page();
  companion.require({});
  await settle(100);
  assert.equal(companion.stage, 'ended');
  server.failures = {};
  companion.require({});
  await settle(100);
  assert.equal(companion.stage, 'running');
  assert.deepEqual(server.started, ['python3', 'python3']);
});
