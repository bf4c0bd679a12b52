import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Cells } from '../../documents/cells';
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
  const told: string[] = [];
  const tell = (model: Model): ICell => {
    told.push(model.id);
    return {
      id: model.id,
      cell_type: 'code',
      source: model.source,
      execution_count: model.count
    };
  };
  return { models, changed, cells: new Cells(list, tell), told };
}

test('all cells are read once', () => {
  const { cells, told } = setUp(3);
  assert.deepEqual(
    cells.now().map(({ id }) => id),
    ['0', '1', '2']
  );
  assert.equal(cells.now(), cells.now());
  assert.deepEqual(told, ['0', '1', '2']);
});

test('only a cell that has changed is read again', () => {
  const { cells, models, told } = setUp(3);
  cells.now();
  told.length = 0;
  models[1].type('x');
  assert.equal(cells.now()[1].source, 'x');
  assert.deepEqual(told, ['1']);
});

test('while somebody types in a cell no other is read, however many there are', () => {
  const reads = [10, 1000].map(count => {
    const { cells, models, told } = setUp(count);
    const before = cells.now('3');
    told.length = 0;
    for (const text of ['a', 'ab', 'abc']) {
      models[3].type(text);
      assert.equal(cells.now('3'), before);
    }
    return told.length;
  });
  assert.deepEqual(reads, [3, 3]);
});

test('what was typed is told when another cell is typed in', () => {
  const { cells, models } = setUp(2);
  cells.now('0');
  models[0].type('x = 1');
  cells.now('0');
  assert.equal(cells.now('1')[0].source, 'x = 1');
});

test('a run of the cell that is typed in is told', () => {
  const { cells, models } = setUp(2);
  cells.now('0');
  models[0].run(7);
  assert.equal(cells.now('0')[0].execution_count, 7);
});

test('cells that come, go or move are noticed', () => {
  const { cells, models, changed } = setUp(2);
  cells.now();
  models.push(new Model('new'));
  models.reverse();
  changed.emit();
  assert.deepEqual(
    cells.now().map(({ id }) => id),
    ['new', '1', '0']
  );
  models[0].type('y');
  assert.equal(cells.now()[0].source, 'y');
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
  // In another cell what was typed may have to be told.
  snapshot.next(cells, '4');
  assert.ok(looks > 0);
});
