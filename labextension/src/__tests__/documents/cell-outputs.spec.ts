import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ICodeCellModel } from '@jupyterlab/cells';

import { outputTexts } from '../../documents/cell-outputs';

/** A cell's model with these outputs, and how often one of them was read. */
function cell(outputs: object[], executionCount: number | null = 1) {
  const state = { read: 0 };
  const model = {
    executionCount,
    outputs: {
      length: outputs.length,
      get: (index: number) => ({
        toJSON: () => {
          state.read++;
          return outputs[index];
        }
      })
    }
  };
  return { model: model as unknown as ICodeCellModel, state };
}

const stream = (text: string, name = 'stdout') => ({ output_type: 'stream', name, text });
const result = (text: string) => ({ output_type: 'execute_result', data: { 'text/plain': text } });

test('prints, results and errors have a text, and a picture alone has none', () => {
  const error = { output_type: 'error', ename: 'KeyError', evalue: "'a'", traceback: [] };
  const picture = { output_type: 'display_data', data: { 'image/png': 'iVBOR' } };
  const { model } = cell([stream('hello\n'), picture, result('   a\n0  1'), error]);
  assert.deepEqual(outputTexts(model), ['hello\n', '   a\n0  1', "KeyError: 'a'"]);
});

test('what goes to stderr is left out', () => {
  assert.deepEqual(outputTexts(cell([stream('warning', 'stderr')]).model), []);
});

test('a cell that runs has no outputs yet', () => {
  assert.deepEqual(outputTexts(cell([stream('half')], null).model), []);
});

test('a long output is cut', () => {
  assert.equal(outputTexts(cell([stream('x'.repeat(9999))]).model)[0].length, 600);
});

test('the outputs of a run are read once', () => {
  const { model, state } = cell([result('1')]);
  outputTexts(model);
  outputTexts(model);
  assert.equal(state.read, 1);
});
