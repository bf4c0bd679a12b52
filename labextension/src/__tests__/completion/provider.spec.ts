import assert from 'node:assert/strict';
import { test } from 'node:test';

import type {
  CompletionHandler,
  IInlineCompletionContext,
  IInlineCompletionItem
} from '@jupyterlab/completer';

import type { Mode } from '../../completion/policy';
import type { CompletionQuery } from '../../kernel/client';
import { matchesCursor } from '../../completion/inline-items';
import type { IUpdate } from '../../kernel/protocol';
import { Provider } from '../../completion/provider';
import type { ICompletionTarget } from '../../completion/types';
import { reasonText } from '../../ui/status-text';
import { ENGLISH, settle } from '../fakes';

type Answer =
  (Pick<IUpdate, 'text' | 'finish_reason' | 'reason'> & Partial<Pick<IUpdate, 'index'>>) | Error;

/** A client whose answers to the newest request the test gives. */
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
    reason?: IUpdate['reason']
  ): Promise<void> {
    this._push({ text, finish_reason, reason });
    await settle();
  }

  async sayOf(
    index: number,
    text: string,
    finish_reason: IUpdate['finish_reason'] = null
  ): Promise<void> {
    this._push({ index, text, finish_reason });
    await settle();
  }

  async fail(message: string): Promise<void> {
    this._push(new Error(message));
    await settle();
  }

  private _push: (answer: Answer) => void = () => undefined;
}

function setUp(debounceMs = 0, mode: Mode = 'automatic') {
  const client = new FakeClient();
  const cell = { source: '', isHere: true };
  const target: ICompletionTarget = {
    client,
    key: 'panel/a',
    cellId: 'a',
    language: 'python',
    disabledLanguages: ['bash'],
    mode,
    cells: () => [],
    source: () => cell.source,
    isAt: () => cell.isHere,
    showsImports: true,
    importCell: () => null
  };
  const notified: string[] = [];
  const added: IInlineCompletionItem[] = [];
  const options: Provider.IOptions = {
    resolveTarget: () => target,
    // It is known at once whether the kernel can complete code.
    settled: async () => undefined,
    trans: ENGLISH,
    reasonText: reason => reasonText(reason, ENGLISH),
    notify: message => void notified.push(message),
    add: item => void added.push(item),
    remove: item => void added.splice(added.indexOf(item), 1)
  };
  const provider = new Provider(options);
  provider.debounceMs = debounceMs;
  provider.timeoutMs = 1000; // a test ends when its timers have
  return { client, cell, provider, options, target, notified, added };
}

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

test('the offset is sent in code points, the text is cut in UTF-16 units', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, "x = '😀|'");
  await settle();
  assert.equal(client.queries[0].offset, 6);
  await client.say('!', 'stop');
  assert.equal((await items)[0].insertText, '!');
  assert.equal((await fetch(provider, "x = '😀|'"))[0].insertText, '!');
});

test('a cursor that JupyterLab 4.4.0 counts in UTF-16 units is sent in code points', async () => {
  const { client, provider, target } = setUp();
  target.isAt = offset => offset === 7;
  const request = { text: "x = '😀'", offset: 7 } as CompletionHandler.IRequest;
  void provider.fetch(request, {
    triggerKind: 1,
    widget: {}
  } as unknown as IInlineCompletionContext);
  await settle();
  assert.equal(client.queries[0].offset, 6);
});

test('a newer fetch ends an older one at once, and cancels it in the kernel', async () => {
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

test('keys in quick succession make one request, and an explicit request does not wait', async () => {
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

test('a request says how long it has waited since its key', async () => {
  const { client, provider } = setUp(30);
  void fetch(provider, 'a|');
  await settle(60);
  void fetch(provider, 'x|', true);
  const [late, atOnce] = client.queries.map(({ waited }) => waited ?? NaN);
  assert.ok(late >= 29 && late < 1000 && atOnce < late, `${late} and ${atOnce} ms`);
});

test('a request names the language of the kernel and the disabled languages', () => {
  const { client, provider } = setUp();
  void fetch(provider, '%%bash\necho |', true);
  const [{ language, languages_off }] = client.queries;
  assert.deepEqual([language, languages_off], ['python', ['bash']]);
});

test('typing a finished suggestion needs no request, nor does Backspace', async () => {
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

test('typing a suggestion that is streaming neither doubles nor loses text', async () => {
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

test('text that JupyterLab removes from an item without a fetch stays removed', async () => {
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

test('a cancelled suggestion is not taken for a complete one', async () => {
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

test('an error is shown once, and again after an explicit request, and never takes the Tab key', async () => {
  const { client, provider, notified } = setUp();
  const ask = async (marked: string, invoke = false) => {
    const items = fetch(provider, marked, invoke);
    await settle();
    await client.fail('No such model.');
    assert.deepEqual(await items, []);
    return notified.splice(0);
  };
  assert.deepEqual(await ask('a|'), ['No such model.']);
  assert.deepEqual(await ask('ab|'), []);
  assert.deepEqual(await ask('abc|', true), ['No such model.']);
  assert.equal(provider.outcome.kind, 'error');
});

test('an error while streaming is shown and leaves the text', async () => {
  const { client, provider, notified } = setUp();
  const items = fetch(provider, 'a|');
  await settle();
  await client.say('b');
  const { texts, done } = follow(provider, (await items)[0]);
  await settle();
  await client.fail('Out of memory.');
  await done;
  assert.deepEqual([texts, notified], [[], ['Out of memory.']]);
});

test('why there is no text is shown after an explicit request only, and is in the outcome', async () => {
  const { client, provider, notified } = setUp();
  const automatic = fetch(provider, 'a|');
  await settle();
  await client.say('', 'stop', 'low_confidence');
  assert.deepEqual([await automatic, notified], [[], []]);
  assert.deepEqual(provider.outcome, { kind: 'nothing', reason: 'low_confidence' });
  const invoked = fetch(provider, 'a|', true);
  await settle();
  await client.say('', 'stop', 'not_ready');
  assert.deepEqual([await invoked, notified], [[], ['The model is not ready yet.']]);
});

test('a request that takes too long is given up', async () => {
  const { client, provider, notified } = setUp();
  provider.timeoutMs = 20;
  assert.deepEqual(await fetch(provider, 'a|', true), []);
  assert.equal(provider.outcome.kind, 'timed out');
  assert.deepEqual(notified, ['The model took too long to answer.']);
  await settle();
  assert.deepEqual(client.cancelled, ['1']);
});

test('manual mode answers explicit requests only, and off none', async () => {
  const manual = setUp(0, 'manual');
  assert.deepEqual(await fetch(manual.provider, 'a|'), []);
  void fetch(manual.provider, 'a|', true);
  assert.equal(manual.client.queries.length, 1);
  const off = setUp(0, 'off');
  assert.deepEqual(await fetch(off.provider, 'a|', true), []);
  assert.deepEqual(off.notified, ['Code completion is off here.']);
  assert.equal(off.client.queries.length, 0);
});

test('nothing is requested where there is no code cell, and an explicit request shows why', async () => {
  const { client, options, notified } = setUp();
  const elsewhere = new Provider({ ...options, resolveTarget: () => null });
  assert.deepEqual(await fetch(elsewhere, 'a|', true), []);
  const waiting = new Provider({ ...options, resolveTarget: () => 'SC2: connecting' });
  assert.deepEqual([await fetch(waiting, 'a|'), notified], [[], []]);
  assert.deepEqual(await fetch(waiting, 'a|', true), []);
  assert.deepEqual(notified, ['SC2: connecting']);
  assert.equal(client.queries.length, 0);
});

test('an explicit request gets several candidates as they come, each once', async () => {
  const { client, provider, added } = setUp();
  const items = fetch(provider, 'x|', true);
  await settle();
  assert.equal(client.queries[0].candidates, 3);
  await client.sayOf(0, '.a()');
  assert.deepEqual(
    (await items).map(item => item.insertText),
    ['.a()']
  );
  await client.sayOf(1, '.a'); // may become the first one again
  assert.equal(added.length, 0);
  await client.sayOf(1, '.b()');
  await client.sayOf(2, '.c');
  assert.deepEqual(
    added.map(item => item.insertText),
    ['.b()', '.c']
  );
  await client.sayOf(1, '.b()', 'stop'); // the third came out as another one
  assert.deepEqual(
    added.map(item => item.insertText),
    ['.b()']
  );
});

test('a candidate that is added fits what was typed meanwhile', async () => {
  const { client, provider, added } = setUp();
  const items = fetch(provider, 'x|', true);
  await settle();
  await client.sayOf(0, '.a()');
  const [item] = await items;
  item.insertText = item.insertText.slice(1); // as JupyterLab does
  await client.sayOf(1, '+ 1');
  await client.sayOf(1, '.b()', 'stop');
  assert.deepEqual(
    added.map(item => item.insertText),
    ['b()']
  );
});

test('a request for several candidates is not answered with the one in the cache', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'x|');
  await settle();
  await client.say('.a()', 'stop');
  await items;
  void fetch(provider, 'x|', true);
  assert.deepEqual(
    client.queries.map(({ candidates }) => candidates),
    [1, 3]
  );
});

test('nothing is shown if the cursor has moved meanwhile', async () => {
  const { cell, client, provider } = setUp();
  const items = fetch(provider, 'ab|');
  await settle();
  cell.isHere = false;
  await client.say('c');
  assert.deepEqual(await items, []);
  assert.equal(provider.outcome.kind, 'idle');
});

test('a request that we trigger ourselves counts as automatic', async () => {
  const { client, provider } = setUp();
  provider.invokeAutomatically(() => void fetch(provider, 'x:\n|', true));
  await settle();
  assert.deepEqual(
    client.queries.map(({ trigger, candidates }) => [trigger, candidates]),
    [['automatic', 1]]
  );
});

test('the text that remains after a part was accepted at several cursors is in the cache', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'a\nb|');
  await settle();
  await client.say('.x.y', 'stop');
  const shown = provider.inlineItem((await items)[0])!;
  assert.equal(matchesCursor(shown, shown.context), true);
  provider.keepRemainder(shown, { cell: 'panel/a', prefix: 'a.x\nb.x', suffix: '' }, '.y');
  assert.equal((await fetch(provider, 'a.x\nb.x|'))[0].insertText, '.y');
  assert.equal(client.queries.length, 1);
});

test('text that was typed before the kernel had started is completed once it has', async () => {
  const { client, options, target } = setUp();
  let arrive = () => {};
  const arrived = new Promise<void>(resolve => (arrive = resolve));
  let there = false;
  const early = new Provider({
    ...options,
    resolveTarget: () => (there ? target : 'SC2: connecting'),
    settled: () => arrived
  });
  early.debounceMs = 0;
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

test('after the cache is cleared a new request is made', async () => {
  const { client, provider } = setUp();
  const items = fetch(provider, 'a|');
  await settle();
  await client.say('b', 'stop');
  await items;
  provider.clearCache();
  void fetch(provider, 'a|');
  await settle();
  assert.equal(client.queries.length, 2);
});

test('of a cell of megabytes only a part is sent, and typing the suggestion finds it in the cache', async () => {
  const { client, provider } = setUp();
  const before = 'x'.repeat(2_000_000);
  const asked = fetch(provider, `${before}|${'y'.repeat(1_000_000)}`);
  await settle();
  const { text, offset } = client.queries[0];
  assert.ok(text.length <= 500_000);
  assert.equal(text.slice(offset, offset + 2), 'yy');
  await client.say('abc', 'stop');
  assert.deepEqual(
    (await asked).map(item => item.insertText),
    ['abc']
  );
  const items = await fetch(provider, `${before}a|${'y'.repeat(1_000_000)}`);
  assert.deepEqual(
    items.map(item => item.insertText),
    ['bc']
  );
  assert.equal(client.queries.length, 1);
});

/** A provider whose suggestion "1" for "x = |" was accepted. */
async function accepted(debounceMs: number) {
  const all = setUp(debounceMs);
  const items = fetch(all.provider, 'x = |');
  await new Promise(resolve => setTimeout(resolve, 2 * debounceMs));
  await all.client.say('1', 'stop');
  const shown = all.provider.inlineItem((await items)[0])!;
  all.provider.keepRemainder(shown, { cell: 'panel/a', prefix: 'x = 1', suffix: '' }, '');
  return all;
}

test('behind accepted text and on the line below, a request is sent without a delay', async () => {
  const { client, provider } = await accepted(20);
  for (const place of ['x = 1|', 'x = 1\n|']) {
    const sent = client.queries.length;
    const items = fetch(provider, place);
    await settle();
    assert.equal(client.queries.length, sent + 1, place);
    provider.cancel();
    await items;
  }
});

test('elsewhere a request waits for the next key, also after an accept', async () => {
  const { client, provider } = await accepted(20);
  const items = fetch(provider, 'x = 1\ny|');
  await settle();
  assert.equal(client.queries.length, 1);
  provider.cancel();
  await items;
});

test('the cursor follows accepted text behind it, behind closers, and on the next line', async () => {
  const { provider } = await accepted(0);
  const follows = (prefix: string, cell = 'panel/a') =>
    provider.followsAccepted({ cell, prefix, suffix: '' });
  for (const rest of ['', ')', '"])', '\n', '\n    ', ')\n\t']) {
    assert.equal(follows('x = 1' + rest), true, JSON.stringify(rest));
  }
  for (const rest of ['2', '\n\n', '\ny', ', ']) {
    assert.equal(follows('x = 1' + rest), false, JSON.stringify(rest));
  }
  assert.equal(follows('x = '), false);
  assert.equal(follows('x = 1', 'panel/b'), false);
});
