// The rules of JupyterLab's extension template. Where we differ, the reason is beside it.
import js from '@eslint/js';
import jupyter from '@jupyter/eslint-plugin';
import stylistic from '@stylistic/eslint-plugin';
import prettier from 'eslint-config-prettier';
import { defineConfig } from 'eslint/config';
import globals from 'globals';
import tseslint from 'typescript-eslint';

export default defineConfig([
  { plugins: { '@stylistic': stylistic, jupyter } },
  js.configs.recommended,
  tseslint.configs.recommended,
  jupyter.configs.recommended,
  prettier, // switches off what is prettier's business; what follows goes beyond that
  {
    files: ['**/*.ts', '**/*.tsx'],
    languageOptions: { globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@stylistic/quotes': [
        'error',
        'single',
        { avoidEscape: true, allowTemplateLiterals: 'never' }
      ],
      '@typescript-eslint/naming-convention': [
        'error',
        { selector: 'interface', format: ['PascalCase'], custom: { regex: '^I[A-Z]', match: true } }
      ],
      '@typescript-eslint/no-explicit-any': 'off',
      '@typescript-eslint/no-namespace': 'off',
      // `const { gone, ...rest } = all` is how we copy an object without one of its members.
      '@typescript-eslint/no-unused-vars': ['error', { args: 'none', ignoreRestSiblings: true }],
      '@typescript-eslint/no-use-before-define': 'off',
      curly: ['error', 'all'],
      eqeqeq: 'error',
      'prefer-arrow-callback': 'error',

      // Our commands take no arguments that could be described.
      'jupyter/command-described-by': 'off',
      'jupyter/no-untranslated-string': 'error',
      // All of it is needed at once, to give completions in the first cell, and it is small.
      'jupyter/prefer-lazy-imports': 'off'
    }
  },
  { files: ['**/__tests__/**'], languageOptions: { globals: globals.node } }
]);
