import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, sep } from 'node:path';
import { test } from 'node:test';

/** The folders from top to bottom. A module imports from its own folder and from those below. */
const LAYERS = ['.', 'ui', 'usage', 'documents', 'completion', 'jupyterlab', 'kernel'];

const SOURCES = 'src';

/** The modules that each module imports, as paths without their ending. */
const imports = new Map(
  readdirSync(SOURCES, { recursive: true, encoding: 'utf-8' })
    .filter(file => /\.tsx?$/.test(file) && !file.startsWith('__tests__'))
    .map(file => {
      const text = readFileSync(join(SOURCES, file), 'utf-8');
      const names = [...text.matchAll(/ from '(\.[^']+)'/g)].map(([, name]) => name);
      return [
        file.replace(/\.tsx?$/, ''),
        names.map(name => normalize(join(dirname(file), name)))
      ] as const;
    })
);

function layerOf(module: string): number {
  return LAYERS.indexOf(module.includes(sep) ? module.split(sep)[0] : '.');
}

test('every folder has a layer', () => {
  assert.deepEqual(
    [...imports.keys()].filter(module => layerOf(module) < 0),
    []
  );
});

test('imports point down', () => {
  const upwards = [...imports].flatMap(([module, names]) =>
    names.filter(name => layerOf(name) < layerOf(module)).map(name => `${module} -> ${name}`)
  );
  assert.deepEqual(upwards, []);
});

test('no imports are circular', () => {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (module: string, path: string[]): void => {
    if (path.includes(module)) {
      circles.push([...path.slice(path.indexOf(module)), module].join(' -> '));
    } else if (!done.has(module)) {
      imports.get(module)?.forEach(name => visit(name, [...path, module]));
      done.add(module);
    }
  };
  [...imports.keys()].forEach(module => visit(module, []));
  assert.deepEqual(circles, []);
});
