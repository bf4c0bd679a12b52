/**
 * The keys in the schema, as each platform gets them: `winKeys`, `macKeys` and `linuxKeys` come before `keys`.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const PLATFORMS = ['win', 'mac', 'linux'] as const;

type Platform = (typeof PLATFORMS)[number];

type Shortcut = { command: string; keys: string[]; selector: string } & Partial<
  Record<`${Platform}Keys`, string[]>
>;

const shortcuts = JSON.parse(readFileSync('schema/plugin.json', 'utf-8'))[
  'jupyter.lab.shortcuts'
] as Shortcut[];

/** The keys of a command on a platform, and where they act. */
function keysOf(command: string, platform: Platform): [string, string][] {
  return shortcuts
    .filter(shortcut => shortcut.command === command)
    .map(shortcut => [(shortcut[`${platform}Keys`] ?? shortcut.keys).join(' '), shortcut.selector]);
}

/** The classes of an editor with ghost text of ours, and with any, as the sources set them. */
const OWN = /OWN_CLASS = '([^']+)'/.exec(
  readFileSync('src/completion/inline-completer.ts', 'utf-8')
)![1];
const ACTIVE = /ACTIVE_CLASS = '([^']+)'/.exec(
  readFileSync('src/jupyterlab/patches.ts', 'utf-8')
)![1];

const RIGHT: Record<Platform, string> = {
  win: 'Ctrl ArrowRight',
  mac: 'Alt ArrowRight',
  linux: 'Ctrl ArrowRight'
};

for (const platform of PLATFORMS) {
  test(`on ${platform} the key that moves by words accepts one`, () => {
    const keys = keysOf('jupyter_sc2:accept-word', platform).map(([key]) => key);
    assert.deepEqual(keys, ['Alt .', RIGHT[platform]]);
  });

  test(`on ${platform} no key is taken where there is no ghost text of ours`, () => {
    for (const command of new Set(shortcuts.map(each => each.command))) {
      for (const [key, selector] of keysOf(command, platform)) {
        const own = key === 'Escape' ? 'jp-mod-sc2-escape' : OWN;
        assert.equal(selector, `.${own}.${ACTIVE}`, `${command}: ${key}`);
      }
    }
  });
}

test('the page lets the same place come before the editor', () => {
  const commands = readFileSync('src/ui/commands.ts', 'utf-8');
  assert.equal(/OWN_GHOST_TEXT = '([^']+)'/.exec(commands)![1], `.${OWN}.${ACTIVE}`);
});
