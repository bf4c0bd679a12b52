import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import type { Settings } from '../kernel/protocol';
import { FrontEndSettings, type IFrontEndSettings } from '../settings';

type Values = Record<string, unknown>;

const SCHEMA: Values = { mode: 'automatic', afterEnter: 'always', locked: false, kernel: {} };

/** JupyterLab's settings of one plugin: the schema's defaults, an administrator's, the user's. */
class FakeRegistered {
  constructor(
    public user: Values,
    private _admin: Values = {}
  ) {}

  changed = { connect: (slot: () => void) => (this._slot = slot) };

  get composite(): Values {
    return { ...SCHEMA, ...this._admin, ...this.user };
  }

  default(name: string): unknown {
    return name in this._admin ? this._admin[name] : SCHEMA[name];
  }

  async set(name: string, value: unknown): Promise<void> {
    this.user = { ...this.user, [name]: value };
    this._slot();
  }

  async remove(name: string): Promise<void> {
    const { [name]: gone, ...rest } = this.user;
    this.user = rest;
    this._slot();
  }

  private _slot: () => void = () => undefined;
}

async function loaded(user: Values, admin: Values = {}) {
  const registered = new FakeRegistered(user, admin);
  const applied: IFrontEndSettings[] = [];
  const registry = { load: async () => registered } as unknown as ISettingRegistry;
  const settings = new FrontEndSettings(registry, 'plugin', values => applied.push(values));
  await settings.load();
  return { registered, settings, now: () => applied[applied.length - 1] };
}

test('a kernel is sent what somebody has set, not the defaults', async () => {
  const sent = async (user: Values, admin?: Values) =>
    (await loaded(user, admin)).now().labSettings;
  assert.deepEqual(await sent({}), {});
  assert.deepEqual(await sent({ mode: 'manual', kernel: { top_k: 3 } }), {
    mode: 'manual',
    top_k: 3
  });
  assert.deepEqual(await sent({ mode: 'automatic' }), { mode: 'automatic' });
  assert.deepEqual(await sent({}, { afterEnter: 'off' }), { after_enter: 'off' });
});

test("a locked mode is the administrator's, whatever the user has set", async () => {
  const { now } = await loaded({ mode: 'automatic' }, { mode: 'off', locked: true });
  assert.deepEqual([now().mode, now().isLocked, now().labSettings], ['off', true, { mode: 'off' }]);
  const { now: free } = await loaded({ mode: 'off', locked: true });
  assert.equal(free().isLocked, false); // a user cannot lock
});

test('what a kernel saved replaces what is set here, and sets nothing else', async () => {
  const { registered, settings } = await loaded({
    mode: 'manual',
    kernel: { model: 'a', top_k: 3 }
  });
  const saved: Settings = { mode: 'automatic', after_enter: 'off', model: 'b', top_k: 3, top_p: 1 };
  assert.equal(await settings.adoptKernelDefaults(true, saved), true);
  assert.deepEqual(registered.user, { mode: 'automatic', kernel: { model: 'b', top_k: 3 } });
  assert.equal(await settings.adoptKernelDefaults(true, saved), false);
});

test('with nothing set here the config file alone decides', async () => {
  const { registered, settings } = await loaded({ debounce: 5 });
  assert.equal(await settings.adoptKernelDefaults(true, { mode: 'off', model: 'b' }), false);
  assert.deepEqual(registered.user, { debounce: 5 });
});

test('deleted defaults are removed here, too', async () => {
  const { registered, settings } = await loaded({
    mode: 'off',
    afterEnter: 'off',
    kernel: { model: 'a' },
    debounce: 5
  });
  assert.equal(await settings.adoptKernelDefaults(false, {}), true);
  assert.deepEqual(registered.user, { debounce: 5 });
});

test("saving does not change an administrator's lock", async () => {
  const { registered, settings } = await loaded({}, { mode: 'off', locked: true });
  assert.equal(await settings.adoptKernelDefaults(true, { mode: 'automatic' }), false);
  assert.deepEqual(registered.user, {});
});

test('a setting with the name of a member of every object is not taken for one of the kernel', async () => {
  const kernel = JSON.parse('{"toString": 1, "__proto__": 2, "constructor": 3}') as Settings;
  const { registered, settings } = await loaded({ kernel });
  assert.equal(await settings.adoptKernelDefaults(true, { model: 'b' }), false);
  assert.deepEqual(registered.user, { kernel });
});
