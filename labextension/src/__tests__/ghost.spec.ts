import assert from 'node:assert/strict';
import { test } from 'node:test';

import { GhostCache, remainder, unitsOf, type IGhost } from '../ghost';

function ghost(prefix: string, text: string, suffix = '', cell = 'a'): IGhost {
  return { cell, prefix, suffix, text };
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
