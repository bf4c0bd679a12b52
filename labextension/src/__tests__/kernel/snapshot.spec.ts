import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ICell } from '../../kernel/protocol';
import { Snapshot } from '../../kernel/snapshot';

function cell(id: string, source = '', execution_count: number | null = null): ICell {
  return { id, cell_type: 'code', source, execution_count };
}

test('the first message is the whole notebook', () => {
  const cells = [cell('a', 'x = 1'), cell('b')];
  assert.deepEqual(new Snapshot().next(cells), { type: 'notebook', rev: 1, cells });
});

test('nothing is sent where nothing changed', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a')]);
  assert.equal(snapshot.next([cell('a')]), null);
  assert.equal(snapshot.rev, 1);
});

test('afterwards only changed cells are sent, and the order of all', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a'), cell('b'), cell('c')]);
  assert.deepEqual(snapshot.next([cell('c'), cell('a', '', 7), cell('d', 'new')]), {
    type: 'notebook',
    rev: 2,
    base: 1,
    cells: [cell('a', '', 7), cell('d', 'new')],
    order: ['c', 'a', 'd']
  });
});

test('a cell whose outputs came later is sent again', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a', 'x', 1)]);
  const later = { ...cell('a', 'x', 1), outputs: ['2'] };
  assert.deepEqual(snapshot.next([later])?.cells, [later]);
});

test('a removed cell is a change', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a'), cell('b')]);
  assert.deepEqual(snapshot.next([cell('b')]), {
    type: 'notebook',
    rev: 2,
    base: 1,
    cells: [],
    order: ['b']
  });
});

test('typing in the current cell is no change until another cell is current', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a', 'x'), cell('b')], 'a');
  assert.equal(snapshot.next([cell('a', 'x = 1'), cell('b')], 'a'), null);
  assert.deepEqual(snapshot.next([cell('a', 'x = 1'), cell('b', 'y')], 'b'), {
    type: 'notebook',
    rev: 2,
    base: 1,
    cells: [cell('a', 'x = 1')],
    order: ['a', 'b']
  });
});

test('the position of the cursor is sent even if nothing changed', () => {
  const snapshot = new Snapshot();
  snapshot.next([cell('a'), cell('b')]);
  assert.deepEqual(snapshot.withCursor([cell('a'), cell('b')], 'b', 3), {
    type: 'notebook',
    rev: 2,
    base: 1,
    cells: [],
    order: ['a', 'b'],
    active: 'b',
    offset: 3
  });
});

test('changes are sent along with the position of the cursor', () => {
  const snapshot = new Snapshot();
  assert.deepEqual(snapshot.withCursor([cell('a')], 'a', 0), {
    type: 'notebook',
    rev: 1,
    cells: [cell('a')],
    active: 'a',
    offset: 0
  });
});
