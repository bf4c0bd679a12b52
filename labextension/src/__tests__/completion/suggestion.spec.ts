import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  GhostCache,
  isAtLineStart,
  near,
  nextLine,
  nextWord,
  pointsOf,
  remainder,
  remainders,
  unitsOf,
  type IGhost
} from '../../completion/suggestion';

function ghost(prefix: string, text: string | string[], suffix = '', cell = 'a'): IGhost {
  return { cell, prefix, suffix, texts: [text].flat() };
}

function place(prefix: string, suffix = '', cell = 'a') {
  return { cell, prefix, suffix };
}

test('offsets count code points, strings count UTF-16 units', () => {
  assert.equal(unitsOf('a😀b', 0), 0);
  assert.equal(unitsOf('a😀b', 1), 1);
  assert.equal(unitsOf('a😀b', 2), 3);
  assert.equal(unitsOf('a😀b', 3), 4);
  assert.equal(unitsOf('é👩‍👧', 4), 'é👩‍👧'.length);
  assert.equal(unitsOf('ab', 9), 2);
});

test('what was typed of a ghost is no longer proposed', () => {
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('pri')), 'nt(x)');
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('print')), '(x)');
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('print(x)')), '');
  assert.equal(remainder(ghost('x = ', "'😀'"), place("x = '😀")), "'");
});

test('a ghost does not fit where something else was typed or deleted', () => {
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('prim')), null);
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('pr')), null);
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('print(x).')), null);
});

test('a ghost does not fit in another cell, nor before another suffix', () => {
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('pri', '', 'b')), null);
  assert.equal(remainder(ghost('pri', 'nt(x)'), place('pri', ' + 1')), null);
});

test('a bracket or quote that the editor closed is not proposed again', () => {
  assert.equal(remainder(ghost('print', '(x)'), place('print(', ')')), 'x');
  assert.equal(remainder(ghost('d[', '"k"]', '\n'), place('d["', '"\n')), null);
  assert.equal(remainder(ghost('x = ', '"k"', '\n'), place('x = "', '"\n')), 'k');
});

test('the cache finds the newest ghost with text left, also after Backspace', () => {
  const cache = new GhostCache<IGhost>();
  const older = ghost('p', 'rint(x)');
  const newer = ghost('pr', 'int(y)');
  cache.add(older);
  cache.add(newer);
  assert.equal(cache.find(place('prin')), newer);
  assert.equal(cache.find(place('p')), older);
  assert.equal(cache.find(place('print(x')), older);
  assert.equal(cache.find(place('print(x)')), undefined);
});

test('the cache forgets the oldest, the removed and, when told, all', () => {
  const cache = new GhostCache<IGhost>(2);
  const ghosts = ['a', 'b', 'c'].map(prefix => ghost(prefix, '!'));
  ghosts.forEach(each => cache.add(each));
  assert.equal(cache.find(place('a')), undefined);
  cache.remove(ghosts[1]);
  assert.equal(cache.find(place('b')), undefined);
  assert.equal(cache.find(place('c')), ghosts[2]);
  cache.clear();
  assert.equal(cache.find(place('c')), undefined);
});

test('all candidates that fit are left, each text once', () => {
  const three = ghost('x', ['.a()', '.b()', '.a(1)']);
  assert.deepEqual(remainders(three, place('x.a')), [
    { index: 0, text: '()' },
    { index: 2, text: '(1)' }
  ]);
  assert.deepEqual(remainders(ghost('x', ['.a', '.a']), place('x.')), [{ index: 0, text: 'a' }]);
});

/** Takes parts off a text until nothing is left. */
function parts(text: string, next: (text: string) => string): string[] {
  return text === '' ? [] : [next(text), ...parts(text.slice(next(text).length), next)];
}

test('words are runs of letters or of signs, with the blanks before them', () => {
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

test('a line of blanks is a beginning', () => {
  assert.equal(isAtLineStart(''), true);
  assert.equal(isAtLineStart('if x:\n    '), true);
  assert.equal(isAtLineStart('if x:\n    y'), false);
});

test('code points are counted as they are spread', () => {
  for (const text of ['', 'abc', 'a😀b', 'é👩‍👧', '\ud83d', 'a\ude00\ud83d', '\ud83d\ud83d\ude00']) {
    assert.equal(pointsOf(text), [...text].length);
  }
});

test('a cell that is not long is sent as it is', () => {
  const [prefix, suffix] = ['x = 😀'.repeat(1000), 'y'.repeat(5000)];
  assert.deepEqual(near({ prefix, suffix }), { text: prefix + suffix, offset: 5000 });
});

test('of a cell of megabytes a bounded part around the cursor is sent', () => {
  for (const filling of ['x', '😀', 'a😀', 'x = 1\n']) {
    const text = filling.repeat(3_000_000 / filling.length);
    for (const offset of [0, 900_000, 900_002, 2_999_998, text.length]) {
      const cut = filling === 'x' ? offset : offset - (offset % filling.length);
      const place = { prefix: text.slice(0, cut), suffix: text.slice(cut) };
      const sent = near(place);
      const points = [...sent.text];
      const before = points.slice(0, sent.offset).join('');
      assert.ok(sent.text.length <= 500_000);
      assert.ok(place.prefix.endsWith(before));
      assert.ok(place.suffix.startsWith(points.slice(sent.offset).join('')));
      assert.ok(before.length > 300_000 || before === place.prefix);
    }
  }
});

test('the part of a long cell begins in one place while somebody types', () => {
  const text = Array.from({ length: 200_000 }, (_, index) => `${index}\n`).join('');
  const beginnings = Array.from({ length: 50 }, (_, key) =>
    near({ prefix: text.slice(0, 900_000 + key), suffix: '' }).text.slice(0, 100)
  );
  assert.equal(new Set(beginnings).size, 1);
});

test('a long cell is sent with the line of its magic', () => {
  const prefix = '%%bash -s\n' + 'echo 1\n'.repeat(100_000);
  assert.ok(near({ prefix, suffix: '' }).text.startsWith('%%bash -s\necho'.slice(0, 10)));
});
