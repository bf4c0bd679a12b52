import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CellCache } from '../../documents/cells';
import type { ICell } from '../../kernel/protocol';
import { Snapshot } from '../../kernel/snapshot';

class Signal {
  connect(slot: () => void): void {
    this._slots.push(slot);
  }

  emit(): void {
    this._slots.forEach(slot => slot());
  }

  private _slots: (() => void)[] = [];
}

class Model {
  constructor(readonly id: string) {}

  contentChanged = new Signal();
  count: number | null = null;
  source = '';

  type(source: string): void {
    this.source = source;
    this.contentChanged.emit();
  }

  run(count: number): void {
    this.count = count;
    this.contentChanged.emit();
  }
}

function setUp(count: number) {
  const models = Array.from({ length: count }, (_, index) => new Model(`${index}`));
  const changed = new Signal();
  const list = { changed, [Symbol.iterator]: () => models[Symbol.iterator]() };
  const readIds: string[] = [];
  const readCell = (model: Model): ICell => {
    readIds.push(model.id);
    return {
      id: model.id,
      cell_type: 'code',
      source: model.source,
      execution_count: model.count
    };
  };
  return { models, changed, cells: new CellCache(list, readCell), readIds };
}

test('all cells are read once', () => {
  const { cells, readIds } = setUp(3);
  assert.deepEqual(
    cells.read().map(({ id }) => id),
    ['0', '1', '2']
  );
  assert.equal(cells.read(), cells.read());
  assert.deepEqual(readIds, ['0', '1', '2']);
});

test('only a cell that has changed is read again', () => {
  const { cells, models, readIds } = setUp(3);
  cells.read();
  readIds.length = 0;
  models[1].type('x');
  assert.equal(cells.read()[1].source, 'x');
  assert.deepEqual(readIds, ['1']);
});

test('while somebody types in a cell no other is read, however many there are', () => {
  const reads = [10, 1000].map(count => {
    const { cells, models, readIds } = setUp(count);
    const before = cells.read('3');
    readIds.length = 0;
    for (const text of ['a', 'ab', 'abc']) {
      models[3].type(text);
      assert.equal(cells.read('3'), before);
    }
    return readIds.length;
  });
  assert.deepEqual(reads, [3, 3]);
});

test('typed text is read when another cell is typed in', () => {
  const { cells, models } = setUp(2);
  cells.read('0');
  models[0].type('x = 1');
  cells.read('0');
  assert.equal(cells.read('1')[0].source, 'x = 1');
});

test('a run of the cell that is typed in is noticed', () => {
  const { cells, models } = setUp(2);
  cells.read('0');
  models[0].run(7);
  assert.equal(cells.read('0')[0].execution_count, 7);
});

test('cells that come, go or move are noticed', () => {
  const { cells, models, changed } = setUp(2);
  cells.read();
  models.push(new Model('new'));
  models.reverse();
  changed.emit();
  assert.deepEqual(
    cells.read().map(({ id }) => id),
    ['new', '1', '0']
  );
  models[0].type('y');
  assert.equal(cells.read()[0].source, 'y');
});

test('cells that are the same as before are not compared for each key', () => {
  let looks = 0;
  const cells = Array.from({ length: 100 }, (_, index) => ({
    cell_type: 'code' as const,
    source: '',
    execution_count: null,
    get id() {
      looks++;
      return `${index}`;
    }
  }));
  const snapshot = new Snapshot();
  snapshot.next(cells, '3');
  looks = 0;
  assert.equal(snapshot.next(cells, '3'), null);
  assert.equal(looks, 0);
  // In another cell what was typed may have to be sent.
  snapshot.next(cells, '4');
  assert.ok(looks > 0);
});
