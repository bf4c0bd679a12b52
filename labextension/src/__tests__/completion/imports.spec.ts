import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  isImportCell,
  missingImports,
  placeOfImports,
  remainingImports
} from '../../completion/imports';
import { StreamingSuggestion } from '../../completion/streaming-suggestion';
import type { IInlineItem } from '../../completion/types';
import type { ICell } from '../../kernel/protocol';

/** A source with the place of imports marked by │. */
const PLACES: Record<string, string> = {
  'an empty cell': '│',
  'a cell of code': '│x = 1\n',
  'a comment on the code below it': '│# the data\nx = 1\n',
  'a comment of its own': '# the data\n\n│x = 1\n',
  'a cell magic': '%%time\n│x = 1\n',
  'a line magic': '%matplotlib inline\n│x = 1\n',
  imports: 'import os\nimport re\n│\nx = 1\n',
  'imports with blank lines and comments between them':
    'import os\n\n# more\nfrom a import b\n│x = 1\n',
  'an import in brackets': 'from a import (\n    b,  # (\n    c,\n)\n│x = 1\n',
  'an import with a backslash': 'from a import b, \\\n    c\n│x = 1\n',
  'imports below code': '│x = 1\nimport os\n',
  'a docstring': '"""What it does."""\n│x = 1\n',
  'a docstring of several lines': '#!/usr/bin/env python\n"""What\n\nit does.\n"""\n│\nx = 1\n',
  'a docstring and a future import':
    '"""Text."""\n\nfrom __future__ import annotations\n│\nx = 1\n',
  'a raw docstring': "r'''Text.'''  # so\n│x = 1\n",
  'a text of which something is called': '│"""a b""".split()\n',
  'a text that is not closed': '│"""What\nimport os\n',
  'an import with other code behind it': '│import os; x = 1\n',
  'a name that begins like an import': '│imported = 1\n',
  'an import in a function': '│def f():\n    import os\n',
  'a comment without a line break': '│# a'
};

for (const [name, marked] of Object.entries(PLACES)) {
  test(`the place of imports: ${name}`, () => {
    const source = marked.replace('│', '');
    const place = placeOfImports(source);
    assert.equal(`${source.slice(0, place)}│${source.slice(place)}`, marked);
  });
}

test('a cell of imports may have comments, magics and blank lines besides', () => {
  assert.ok(isImportCell('import os'));
  assert.ok(
    isImportCell('# Imports\n%matplotlib inline\nimport os; import re\n\nfrom a import (\n  b)\n')
  );
});

test('a cell with other code, without an import or with a text is none', () => {
  for (const source of [
    'import os\nx = 1',
    '',
    '# import os',
    '%pip install a',
    '"""a"""\nimport b',
    'import os; x = 1',
    '%%writefile a.py\nimport os'
  ]) {
    assert.ok(!isImportCell(source), source);
  }
});

const NP = { name: 'np', code: 'import numpy as np', offset: 2 };
const MATH = { name: 'math', code: 'import math', offset: 17 };

function item(fields: { cells?: Partial<ICell>[]; source?: string; text?: string } = {}) {
  const { cells = [], source = 'x = ', text = 'np.array([1, math.pi])' } = fields;
  const suggestion = new StreamingSuggestion({ cell: 'a', prefix: 'x = ', suffix: '' }, 1);
  suggestion.texts = [text];
  suggestion.imports = [[NP, MATH]];
  const target = { source: () => source, cells: () => cells };
  return { suggestion, index: 0, target } as unknown as IInlineItem;
}

function context(prefix = 'x = ') {
  return { cell: 'a', prefix, suffix: '' };
}

test('all of a text brings all imports', () => {
  assert.deepEqual(missingImports(item(), context(), 'np.array([1, math.pi])'), [
    NP.code,
    MATH.code
  ]);
});

test('a word brings the imports of the names it completes', () => {
  assert.deepEqual(missingImports(item(), context(), 'n'), []);
  assert.deepEqual(missingImports(item(), context(), 'np'), [NP.code]);
});

test('what was typed of a text counts as accepted with the rest', () => {
  assert.deepEqual(missingImports(item(), context('x = np.arr'), 'ay'), [NP.code]);
});

test('offsets count code points', () => {
  const long = item({ text: 'np["😀😀😀😀😀", math.pi]' });
  assert.deepEqual(missingImports(long, context(), 'np["😀😀😀😀😀", mat'), [NP.code]);
  assert.deepEqual(missingImports(long, context(), 'np["😀😀😀😀😀", math.pi]'), [
    NP.code,
    MATH.code
  ]);
});

test('an import that is there meanwhile is not added again', () => {
  const code = { cell_type: 'code', source: '# all\nimport numpy as np\n' } as const;
  assert.deepEqual(missingImports(item({ cells: [code] }), context(), 'np.'), []);
  assert.deepEqual(
    missingImports(item({ source: 'import numpy as np\nx = ' }), context(), 'np.'),
    []
  );
});

test('an import in prose, in another file or as a part of a line does not count', () => {
  const source = 'import numpy as np';
  const cells = [
    { cell_type: 'markdown', source },
    { cell_type: 'code', source, path: 'other.py' },
    { cell_type: 'code', source: 'import numpy as npt' }
  ] as const;
  assert.deepEqual(missingImports(item({ cells: [...cells] }), context(), 'np.'), [NP.code]);
});

test('imports that the user leaves out are not added', () => {
  const own = item();
  own.suggestion.leavesImportsOut = true;
  assert.deepEqual(missingImports(own, context(), 'np.'), []);
});

test('the rest of a text keeps the imports of its own names', () => {
  const { suggestion } = item();
  assert.deepEqual(remainingImports(suggestion, 0, '.array([1, math.pi])'), [
    { ...MATH, offset: 15 }
  ]);
  assert.deepEqual(remainingImports(suggestion, 0, '.array([1, math.pi]'), [
    { ...MATH, offset: 15 }
  ]);
});
