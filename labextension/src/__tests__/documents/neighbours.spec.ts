import assert from 'node:assert/strict';
import { test } from 'node:test';

import { namedFiles, Neighbours } from '../../documents/neighbours';
import { settle } from '../fakes';

/** A text, the path of its file, and the paths that it names. */
const NAMED: [string, string, string[]][] = [
  ['from .util import area\nimport pkg.shapes', 'src/main.py', ['src/util', 'src/pkg/shapes']],
  ['from ..other import x', 'src/main.py', ['other']],
  ['#include "shapes/area.h"', 'src/main.cpp', ['src/shapes/area.h']],
  [
    "import { area } from './util';\nconst b = require('../lib/b.js');",
    'src/main.ts',
    ['src/util', 'lib/b.js']
  ],
  ['mod util;\nuse crate::shapes::area;', 'src/main.rs', ['src/util', 'src/shapes/area']],
  ['source("util.R")\nlibrary(dplyr)', 'main.R', ['util.R']],
  ['include("util.jl")', 'src/main.jl', ['src/util.jl']],
  ['source ./lib.sh\n. env.sh', 'bin/run.sh', ['bin/lib.sh', 'bin/env.sh']],
  ['\\input{chapters/one}', 'main.tex', ['chapters/one']],
  ['x = 1\nprint("not/a/file.py")', 'main.py', []],
  ["import x from '../../outside';", 'src/main.ts', []],
  ["import x from '/etc/passwd';", 'src/main.ts', []]
];

test('a text names files by the rules of its language, none outside the root', () => {
  for (const [text, path, names] of NAMED) {
    assert.deepEqual(namedFiles(text, path), names, text);
  }
});

function panel(path: string, text: string, mimeType = 'text/x-python') {
  return {
    context: { path, model: { contentChanged: { connect: () => undefined } } },
    content: { editor: { model: { mimeType, sharedModel: { getSource: () => text } } } }
  };
}

/** A disk that counts what is asked of it. */
function disk(files: Record<string, string>) {
  const asked: string[] = [];
  return {
    asked,
    get: async (path: string, { type, content: isAsked }: { type: string; content: boolean }) => {
      asked.push(path);
      const below = (name: string) => name.startsWith(path === '' ? '' : `${path}/`);
      const content =
        type === 'file'
          ? files[path]
          : Object.keys(files)
              .filter(below)
              .map(name => ({ path: name, type: 'file', size: files[name].length }));
      return { path, type, content: isAsked ? content : null };
    }
  };
}

function neighbours(panels: unknown[], files: Record<string, string> = {}) {
  const contents = disk(files);
  const editors = { forEach: (act: (each: unknown) => void) => panels.forEach(act) };
  return { contents, it: new Neighbours(editors as never, contents as never) };
}

test('open files are neighbours, the one that is named nearest, without plain text and hidden ones', () => {
  const mine = panel('main.py', 'import util');
  const { it } = neighbours([
    mine,
    panel('util.py', 'def area(): ...'),
    panel('other.py', 'x = 1'),
    panel('notes.txt', 'text', 'text/plain'),
    panel('.env.py', 'SECRET = 1')
  ]);
  const cells = it.cells(mine as never, 'main.py', 'import util');
  assert.deepEqual(
    cells.map(({ path, id }) => path ?? id),
    ['other.py', 'util.py', 'main.py']
  );
});

test('at most four neighbours are sent, and of each a bounded part', () => {
  const panels = [...'abcdefgh'].map(name => panel(`${name}.py`, 'x'.repeat(50_000)));
  const cells = neighbours(panels).it.cells(panels[0] as never, 'a.py', '');
  assert.equal(cells.length, 5);
  assert.ok(cells.every(({ source }) => source.length <= 6000));
});

test('a file that is named and not open is read once its folder lists it', async () => {
  const { it, contents } = neighbours([], { 'util.py': 'def area(): ...', 'other.py': '' });
  const text = 'import util\nimport numpy';
  assert.equal(it.cells({} as never, 'main.py', text).length, 1);
  await settle(100);
  const [util, mine] = it.cells({} as never, 'main.py', text);
  assert.equal(util.source, 'def area(): ...');
  assert.equal(mine.id, 'main.py');
  assert.deepEqual(contents.asked, ['', 'util.py']);
});
