import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { CompletionHandler, IInlineCompletionContext } from '@jupyterlab/completer';

import type { CompletionQuery } from '../client';
import type { IUpdate } from '../protocol';
import { Provider, type ISpot } from '../provider';
import { settle } from './fakes';

type Answer = Pick<IUpdate, 'text' | 'finish_reason' | 'reason'> | Error;

/** A client that is told what to answer to the newest request. */
class FakeClient {
  queries: CompletionQuery[] = [];
  cancelled: string[] = [];
  accepts: unknown[] = [];

  async *complete(
    query: CompletionQuery,
    cells: unknown,
    signal: AbortSignal
  ): AsyncGenerator<IUpdate> {
    const id = String(this.queries.push(query));
    const queue: Answer[] = [];
    let wake: () => void = () => undefined;
    const push = (answer: Answer) => {
      queue.push(answer);
      wake();
    };
    this._push = push;
    signal.addEventListener('abort', () => {
      this.cancelled.push(id);
      push({ text: '', finish_reason: 'cancelled' });
    });
    for (;;) {
      while (queue.length === 0) {
        await new Promise<void>(resolve => (wake = resolve));
      }
      const answer = queue.shift()!;
      if (answer instanceof Error) {
        throw answer;
      }
      yield { type: 'update', id, index: 0, ...answer };
      if (answer.finish_reason) {
        return;
      }
    }
  }

  accepted(accepted: unknown): void {
    this.accepts.push(accepted);
  }

  async say(
    text: string,
    finish_reason: IUpdate['finish_reason'] = null,
    reason?: string
  ): Promise<void> {
    this._push({ text, finish_reason, reason });
    await settle();
  }

  async fail(message: string): Promise<void> {
    this._push(new Error(message));
    await settle();
  }

  private _push: (answer: Answer) => void = () => undefined;
}

function setUp(debounce = 0) {
  const client = new FakeClient();
  const cell = { source: '' };
  const spot: ISpot = {
    client,
    key: 'panel/a',
    cellId: 'a',
    language: 'python',
    cells: () => [],
    source: () => cell.source
  };
  const provider = new Provider({ locate: () => spot, settled });
  provider.debounce = debounce;
  return { client, cell, provider };
}

/** Whether a kernel completes code is clear at once. */
async function settled(): Promise<void> {}

/** A fetch with the cursor at the first `|`. */
function fetch(provider: Provider, marked: string, invoke = false) {
  const [prefix, suffix] = marked.split('|');
  const request = {
    text: prefix + suffix,
    offset: [...prefix].length
  } as CompletionHandler.IRequest;
  const context = {
    triggerKind: invoke ? 0 : 1,
    widget: {}
  } as unknown as IInlineCompletionContext;
  return provider.fetch(request, context).then(list => list.items);
}

/** What JupyterLab does with a stream, at the pace of the test. */
function follow(provider: Provider, item: { insertText: string; token?: string }) {
  const texts: string[] = [];
  const done = (async () => {
    for await (const { response } of provider.stream(item.token!)) {
      item.insertText = response.insertText;
      texts.push(response.error ? `error: ${response.error.message}` : response.insertText);
    }
  })();
  return { texts, done };
}

test('a fetch answers with the first text and streams the rest', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'pri|');
  await settle();
  await client.say('');
  await client.say('nt');
  const [item] = await items;
  assert.equal(item.insertText, 'nt');
  assert.equal(item.isIncomplete, true);
  const { texts, done } = follow(provider, item);
  await settle();
  await client.say('nt(');
  await client.say('nt(x)', 'stop');
  await done;
  assert.deepEqual(texts, ['nt(', 'nt(x)']);
});

test('the offset goes to the kernel in code points, the text is cut in UTF-16 units', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, "x = '😀|'");
  await settle();
  assert.equal(client.queries[0].offset, 6);
  await client.say('!', 'stop');
  assert.equal((await items)[0].insertText, '!');
  assert.equal((await fetch(provider, "x = '😀|'"))[0].insertText, '!');
});

test('a newer fetch empties an older one at once, and cancels it in the kernel', async () => {
  const { client, provider } = setUp();
  const older = fetch(provider, 'a|');
  await settle();
  const newer = fetch(provider, 'ab|');
  assert.deepEqual(await older, []);
  await settle();
  assert.deepEqual(client.cancelled, ['1']);
  await client.say('c', 'stop');
  assert.equal((await newer)[0].insertText, 'c');
});

test('keys in quick succession ask once, an invocation does not wait', async () => {
  const { client, provider } = setUp(20);
  void fetch(provider, 'a|');
  void fetch(provider, 'ab|');
  void fetch(provider, 'abc|');
  assert.equal(client.queries.length, 0);
  await settle(40);
  assert.deepEqual(
    client.queries.map(({ text, trigger }) => [text, trigger]),
    [['abc', 'automatic']]
  );
  void fetch(provider, 'x|', true);
  assert.equal(client.queries[1].trigger, 'invoke');
});

test('typing through a finished completion asks nobody, nor does Backspace', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'pri|');
  await settle();
  await client.say('nt(x)', 'stop');
  await items;
  const shown = [];
  for (const typed of ['prin|', 'print(|', 'prin|', 'pri|']) {
    shown.push((await fetch(provider, typed))[0].insertText);
  }
  assert.deepEqual(shown, ['t(x)', 'x)', 't(x)', 'nt(x)']);
  assert.equal(client.queries.length, 1);
});

test('typing through a growing completion neither doubles nor loses text', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'pri|');
  await settle();
  await client.say('nt');
  const first = follow(provider, (await items)[0]);
  const [item] = await fetch(provider, 'prin|');
  const second = follow(provider, item);
  await settle();
  await client.say('nt(x)', 'stop');
  await Promise.all([first.done, second.done]);
  assert.deepEqual(first.texts, []);
  assert.deepEqual(second.texts, ['t(x)']);
  assert.deepEqual(client.cancelled, []);
});

test('text that JupyterLab takes off an item without a fetch stays off', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'if x:|');
  await settle();
  await client.say('\n    re');
  const [item] = await items;
  const { texts, done } = follow(provider, item);
  item.insertText = item.insertText.slice('\n    '.length);
  await settle();
  await client.say('\n    return');
  await client.say('\n    return 1', 'stop');
  await done;
  assert.deepEqual(texts, ['return', 'return 1']);
});

test('a cancelled completion is not taken for a whole one', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'pri|');
  await settle();
  await client.say('nt(');
  await items;
  void fetch(provider, 'prix|');
  await settle();
  void fetch(provider, 'pri|');
  await settle();
  assert.deepEqual(
    client.queries.map(({ text }) => text),
    ['pri', 'prix', 'pri']
  );
});

test('an error is shown once, and again to one who asks', async () => {
  const { client, provider } = setUp();
  const ask = async (marked: string, invoke = false) => {
    const items = fetch(provider, marked, invoke);
    await settle();
    await client.fail('No such model.');
    return (await items).map(({ error }) => error?.message);
  };
  assert.deepEqual(await ask('a|'), ['No such model.']);
  assert.deepEqual(await ask('ab|'), []);
  assert.deepEqual(await ask('abc|', true), ['No such model.']);
});

test('an error in mid-stream ends the stream with it and leaves the text', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'a|');
  await settle();
  await client.say('b');
  const { texts, done } = follow(provider, (await items)[0]);
  await settle();
  await client.fail('Out of memory.');
  await done;
  assert.deepEqual(texts, ['error: Out of memory.']);
});

test('why there is no text is told only to one who asks', async () => {
  const { client, provider } = setUp();
  const automatic = fetch(provider, 'a|');
  await settle();
  await client.say('', 'stop', 'not_ready');
  assert.deepEqual(await automatic, []);
  const invoked = fetch(provider, 'a|', true);
  await settle();
  await client.say('', 'stop', 'not_ready');
  assert.equal((await invoked)[0].error?.message, 'The model is not ready yet.');
});

test('nothing is asked automatically while switched off, or where there is no code cell', async () => {
  const { client, provider } = setUp();
  provider.enabled = false;
  assert.deepEqual(await fetch(provider, 'a|'), []);
  const elsewhere = new Provider({ locate: () => null, settled });
  assert.deepEqual(await fetch(elsewhere, 'a|', true), []);
  const waiting = new Provider({ locate: () => 'SC2: connecting', settled });
  assert.deepEqual(await fetch(waiting, 'a|'), []);
  assert.equal((await fetch(waiting, 'a|', true))[0].error?.message, 'SC2: connecting');
  assert.equal(client.queries.length, 0);
});

test('what was typed before the kernel was there is asked when it is', async () => {
  const { client, provider } = setUp();
  let arrive = () => {};
  const arrived = new Promise<void>(resolve => (arrive = resolve));
  let there = false;
  const spot = provider['_locate']({} as never, 'a');
  const early = new Provider({
    locate: () => (there ? spot : 'SC2: connecting'),
    settled: () => arrived
  });
  early.debounce = 0;
  const items = fetch(early, 'a|');
  await new Promise(resolve => setTimeout(resolve, 5));
  assert.equal(client.queries.length, 0);
  there = true;
  arrive();
  await new Promise(resolve => setTimeout(resolve, 5));
  assert.equal(client.queries.length, 1);
  early.cancel();
  await items;
});

test('each answer is a fresh object', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'a|');
  await settle();
  await client.say('b', 'stop');
  const [first] = await items;
  const [second] = await fetch(provider, 'a|');
  assert.notEqual(first, second);
});

test('the kernel is told of accepted text, if it was ours', async () => {
  const { client, cell, provider } = setUp();
  const items = fetch(provider, 'pri|  # x');
  await settle();
  await client.say('nt()', 'stop');
  await items;
  cell.source = 'primer  # x';
  provider.noticeAccepted();
  assert.deepEqual(client.accepts, []);
  cell.source = 'print()  # x';
  provider.noticeAccepted();
  provider.noticeAccepted();
  assert.deepEqual(client.accepts, [{ id: '1', index: 0, text: 'nt()' }]);
});

test('what is forgotten is asked again', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'a|');
  await settle();
  await client.say('b', 'stop');
  await items;
  provider.forget();
  void fetch(provider, 'a|');
  await settle();
  assert.equal(client.queries.length, 2);
});
