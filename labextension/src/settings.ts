/**
 * What stands in JupyterLab's settings for us, checked and with its defaults.
 */
import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import { MODES, type AfterEnter, type Mode } from './asking';
import type { Settings } from './protocol';

export interface IFrontEndSettings {
  mode: Mode;
  afterEnter: AfterEnter;
  autoLoad: boolean;
  debounce: number;
  candidates: number;
  languagesOff: string[];
  announce: boolean;

  /** Settings for every kernel. */
  kernel: Settings;
}

export class FrontEndSettings {
  constructor(
    private _registry: ISettingRegistry | null,
    private _plugin: string,
    private _apply: (values: IFrontEndSettings) => void
  ) {}

  /** Whether the mode is for an administrator to choose: `locked` in overrides.json, not in the user's own. */
  get isLocked(): boolean {
    return this._settings?.default('locked') === true;
  }

  /** Applies the settings, and again at each change. */
  async load(): Promise<void> {
    try {
      this._settings = (await this._registry?.load(this._plugin)) ?? null;
      this._settings?.changed.connect(() => this._apply(this._values()));
    } catch {
      // Without settings the defaults hold.
    }
    this._apply(this._values());
  }

  async set(name: keyof IFrontEndSettings, value: string): Promise<void> {
    await this._settings?.set(name, value);
  }

  private _values(): IFrontEndSettings {
    const values = (this._settings?.composite ?? {}) as Record<string, unknown>;
    const mode = this.isLocked ? this._settings!.default('mode') : values.mode;
    return {
      mode: MODES.find(known => known === mode) ?? 'automatic',
      afterEnter:
        values.afterEnter === 'off' || values.afterEnter === 'always' ? values.afterEnter : 'smart',
      autoLoad: values.autoLoad !== false,
      debounce: numberOr(values.debounce, 100),
      candidates: Math.min(10, Math.max(1, Math.round(numberOr(values.candidates, 3)))),
      languagesOff: Array.isArray(values.languagesOff) ? values.languagesOff.map(String) : [],
      announce: values.announce === true,
      kernel: (values.kernel ?? {}) as Settings
    };
  }

  private _settings: ISettingRegistry.ISettings | null = null;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise;
}
