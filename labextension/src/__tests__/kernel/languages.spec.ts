import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  afterEnterRules,
  canonicalLanguage,
  knowsLanguage,
  languageOfCell,
  languageOfFile
} from '../../kernel/languages';
import type { IHelloReply, ILanguages } from '../../kernel/protocol';

const TABLE: ILanguages = {
  magics: { bash: 'bash', shell: 'bash', sh: 'bash', sql: 'sql', r: 'r' },
  own: ['time'],
  files: ['writefile'],
  endings: { sh: 'bash', sql: 'sql', txt: 'text', r: 'r' },
  models: { small: ['python'], large: ['*'], middle: ['python', 'bash'] },
  after_enter: { bash: { comment: '#', openers: '(then|do)$' } }
};

function clientWith(model: string) {
  return { hello: { languages: TABLE, model } as IHelloReply, status: null };
}

test('a language has the name that the kernel gives it', () => {
  assert.equal(canonicalLanguage('Shell', TABLE), 'bash');
  assert.equal(canonicalLanguage('Erlang', TABLE), 'erlang');
  assert.equal(canonicalLanguage('constructor', TABLE), 'constructor');
});

test('a model knows the languages of its list, all with a star, and nobody knows of one without', () => {
  assert.equal(knowsLanguage(clientWith('small'), 'Shell'), false);
  assert.equal(knowsLanguage(clientWith('middle'), 'Shell'), true);
  assert.equal(knowsLanguage(clientWith('large'), 'Erlang'), true);
  assert.equal(knowsLanguage(clientWith('./folder'), 'Erlang'), undefined);
});

test('a file is in the language of its ending', () => {
  assert.equal(languageOfFile('a/b.SH', TABLE, 'x'), 'bash');
  assert.equal(languageOfFile('a/notes.txt', TABLE, 'x'), 'x');
  assert.equal(languageOfFile('a/Makefile', TABLE, 'x'), 'x');
});

test('a cell is in the language of its magic', () => {
  assert.equal(languageOfCell('%%bash\nls', 'python', TABLE), 'bash');
  assert.equal(languageOfCell('%%time\nx', 'python', TABLE), 'python');
  assert.equal(languageOfCell('%%writefile run.sh\nls', 'python', TABLE), 'bash');
  assert.equal(languageOfCell('x = 1', 'R', TABLE), 'R');
  assert.equal(languageOfCell('%%bash\nls', 'python', undefined), 'python');
});

test('the rules for a new line are those of the language', () => {
  assert.equal(afterEnterRules('Shell', TABLE)?.openers, '(then|do)$');
  assert.equal(afterEnterRules('Erlang', TABLE), undefined);
});
