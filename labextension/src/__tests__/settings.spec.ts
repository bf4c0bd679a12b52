import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import type { Settings } from '../kernel/protocol';
import { FrontEndSettings, type IFrontEndSettings } from '../settings';

type Values = Record<string, unknown>;

const SCHEMA: Values = { mode: 'automatic', afterEnter: 'smart', locked: false, kernel: {} };

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

test('a kernel is told of what somebody has chosen, not of what is so anyway', async () => {
  const told = async (user: Values, admin?: Values) => (await loaded(user, admin)).now().everywhere;
  assert.deepEqual(await told({}), {});
  assert.deepEqual(await told({ mode: 'manual', kernel: { top_k: 3 } }), {
    mode: 'manual',
    top_k: 3
  });
  assert.deepEqual(await told({ mode: 'automatic' }), { mode: 'automatic' });
  assert.deepEqual(await told({}, { afterEnter: 'off' }), { after_enter: 'off' });
});

test('a locked mode is the administrators, whatever the user has chosen', async () => {
  const { now } = await loaded({ mode: 'automatic' }, { mode: 'off', locked: true });
  assert.deepEqual([now().mode, now().isLocked, now().everywhere], ['off', true, { mode: 'off' }]);
  const { now: free } = await loaded({ mode: 'off', locked: true });
  assert.equal(free().isLocked, false); // a user cannot lock
});

test('what a kernel saved is what stands here, as far as something does', async () => {
  const { registered, settings } = await loaded({
    mode: 'manual',
    kernel: { model: 'a', top_k: 3 }
  });
  const saved: Settings = { mode: 'automatic', after_enter: 'off', model: 'b', top_k: 3, top_p: 1 };
  assert.equal(await settings.saved(true, saved), true);
  assert.deepEqual(registered.user, { mode: 'automatic', kernel: { model: 'b', top_k: 3 } });
  assert.equal(await settings.saved(true, saved), false);
});

test('with nothing here the config file has the say alone', async () => {
  const { registered, settings } = await loaded({ debounce: 5 });
  assert.equal(await settings.saved(true, { mode: 'off', model: 'b' }), false);
  assert.deepEqual(registered.user, { debounce: 5 });
});

test('what was saved is forgotten here, too', async () => {
  const { registered, settings } = await loaded({
    mode: 'off',
    afterEnter: 'off',
    kernel: { model: 'a' },
    debounce: 5
  });
  assert.equal(await settings.saved(false, {}), true);
  assert.deepEqual(registered.user, { debounce: 5 });
});

test('an administrators lock is not touched by saving', async () => {
  const { registered, settings } = await loaded({}, { mode: 'off', locked: true });
  assert.equal(await settings.saved(true, { mode: 'automatic' }), false);
  assert.deepEqual(registered.user, {});
});

test('a setting that is called like a member of every object is not taken for one of the kernel', async () => {
  const kernel = JSON.parse('{"toString": 1, "__proto__": 2, "constructor": 3}') as Settings;
  const { registered, settings } = await loaded({ kernel });
  assert.equal(await settings.saved(true, { model: 'b' }), false);
  assert.deepEqual(registered.user, { kernel });
});
