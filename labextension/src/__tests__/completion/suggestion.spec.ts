import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import {
  SuggestionCache,
  isAtLineStart,
  requestText,
  nextLine,
  nextWord,
  codePointCount,
  remainingText,
  remainingTexts,
  toUtf16Offset,
  type ISuggestion
} from '../../completion/suggestion';

function suggestion(prefix: string, text: string | string[], suffix = '', cell = 'a'): ISuggestion {
  return { cell, prefix, suffix, texts: [text].flat() };
}

function context(prefix: string, suffix = '', cell = 'a') {
  return { cell, prefix, suffix };
}

test('offsets count code points, strings count UTF-16 units', () => {
  assert.equal(toUtf16Offset('a😀b', 0), 0);
  assert.equal(toUtf16Offset('a😀b', 1), 1);
  assert.equal(toUtf16Offset('a😀b', 2), 3);
  assert.equal(toUtf16Offset('a😀b', 3), 4);
  assert.equal(toUtf16Offset('é👩‍👧', 4), 'é👩‍👧'.length);
  assert.equal(toUtf16Offset('ab', 9), 2);
});

/** Cases that hold for the kernel's cache of suggestions, too. */
const { cases } = JSON.parse(readFileSync('../tests/data/golden/remainder.json', 'utf-8')) as {
  cases: {
    name: string;
    suggested: string;
    text: string;
    typed: string;
    remaining: string | null;
  }[];
};

function marked(cell: string) {
  const [prefix, suffix] = cell.split('│');
  return context(prefix, suffix);
}

for (const { name, suggested, text, typed, remaining } of cases) {
  test(`remaining text: ${name}`, () => {
    const made: ISuggestion = { ...marked(suggested), texts: [text] };
    assert.equal(remainingText(made, marked(typed)) || null, remaining);
  });
}

test('a suggestion of which everything was typed applies, and has no text left', () => {
  assert.equal(remainingText(suggestion('pri', 'nt(x)'), context('print(x)')), '');
});

test('a suggestion does not apply in another cell', () => {
  assert.equal(remainingText(suggestion('pri', 'nt(x)'), context('pri', '', 'b')), null);
});

test('a quote that the editor closed before the end of a suggestion leaves nothing to suggest', () => {
  assert.equal(remainingText(suggestion('d[', '"k"]', '\n'), context('d["', '"\n')), null);
});

test('the cache finds the newest suggestion of which text remains, also after Backspace', () => {
  const cache = new SuggestionCache<ISuggestion>();
  const older = suggestion('p', 'rint(x)');
  const newer = suggestion('pr', 'int(y)');
  cache.add(older);
  cache.add(newer);
  assert.equal(cache.find(context('prin')), newer);
  assert.equal(cache.find(context('p')), older);
  assert.equal(cache.find(context('print(x')), older);
  assert.equal(cache.find(context('print(x)')), undefined);
});

test('the cache drops the oldest, the removed and, when cleared, all', () => {
  const cache = new SuggestionCache<ISuggestion>(2);
  const suggestions = ['a', 'b', 'c'].map(prefix => suggestion(prefix, '!'));
  suggestions.forEach(each => cache.add(each));
  assert.equal(cache.find(context('a')), undefined);
  cache.remove(suggestions[1]);
  assert.equal(cache.find(context('b')), undefined);
  assert.equal(cache.find(context('c')), suggestions[2]);
  cache.clear();
  assert.equal(cache.find(context('c')), undefined);
});

test('all candidates that apply remain, each text once', () => {
  const three = suggestion('x', ['.a()', '.b()', '.a(1)']);
  assert.deepEqual(remainingTexts(three, context('x.a')), [
    { index: 0, text: '()' },
    { index: 2, text: '(1)' }
  ]);
  assert.deepEqual(remainingTexts(suggestion('x', ['.a', '.a']), context('x.')), [
    { index: 0, text: 'a' }
  ]);
});

/** Takes parts off a text until nothing is left. */
function parts(text: string, next: (text: string) => string): string[] {
  return text === '' ? [] : [next(text), ...parts(text.slice(next(text).length), next)];
}

test('words are runs of letters or of punctuation, with the blanks before them', () => {
  assert.deepEqual(parts(' = np.arange(10)\n', nextWord), [
    ' =',
    ' np',
    '.',
    'arange',
    '(',
    '10',
    ')',
    '\n'
  ]);
  assert.deepEqual(parts('größe_2 += 名前', nextWord), ['größe_2', ' +=', ' 名前']);
});

test('a line is taken without its line break, which comes with the next', () => {
  assert.deepEqual(parts('x:\n    a\n\n    b', nextLine), ['x:', '\n    a', '\n\n    b']);
});

test('a blank line is a line start', () => {
  assert.equal(isAtLineStart(''), true);
  assert.equal(isAtLineStart('if x:\n    '), true);
  assert.equal(isAtLineStart('if x:\n    y'), false);
});

test('code points are counted as they are spread', () => {
  for (const text of ['', 'abc', 'a😀b', 'é👩‍👧', '\ud83d', 'a\ude00\ud83d', '\ud83d\ud83d\ude00']) {
    assert.equal(codePointCount(text), [...text].length);
  }
});

test('a cell that is not long is sent as it is', () => {
  const [prefix, suffix] = ['x = 😀'.repeat(1000), 'y'.repeat(5000)];
  assert.deepEqual(requestText({ prefix, suffix }), { text: prefix + suffix, offset: 5000 });
});

test('of a cell of megabytes a bounded part around the cursor is sent', () => {
  for (const filling of ['x', '😀', 'a😀', 'x = 1\n']) {
    const text = filling.repeat(3_000_000 / filling.length);
    for (const offset of [0, 900_000, 900_002, 2_999_998, text.length]) {
      const cut = filling === 'x' ? offset : offset - (offset % filling.length);
      const context = { prefix: text.slice(0, cut), suffix: text.slice(cut) };
      const sent = requestText(context);
      const points = [...sent.text];
      const before = points.slice(0, sent.offset).join('');
      assert.ok(sent.text.length <= 500_000);
      assert.ok(context.prefix.endsWith(before));
      assert.ok(context.suffix.startsWith(points.slice(sent.offset).join('')));
      assert.ok(before.length > 300_000 || before === context.prefix);
    }
  }
});

test('the part of a long cell begins in one place while somebody types', () => {
  const text = Array.from({ length: 200_000 }, (_, index) => `${index}\n`).join('');
  const beginnings = Array.from({ length: 50 }, (_, key) =>
    requestText({ prefix: text.slice(0, 900_000 + key), suffix: '' }).text.slice(0, 100)
  );
  assert.equal(new Set(beginnings).size, 1);
});

test('a long cell is sent with the line of its magic', () => {
  const prefix = '%%bash -s\n' + 'echo 1\n'.repeat(100_000);
  assert.ok(requestText({ prefix, suffix: '' }).text.startsWith('%%bash -s\necho'.slice(0, 10)));
});
