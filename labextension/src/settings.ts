/**
 * What stands in JupyterLab's settings for us, checked and with its defaults.
 */
import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import { AFTER_ENTER, MODES, type AfterEnter, type Mode } from './completion/policy';
import type { Settings } from './kernel/protocol';

export interface IFrontEndSettings {
  mode: Mode;
  afterEnter: AfterEnter;

  /** Whether the mode is for an administrator to choose. */
  isLocked: boolean;
  autoLoad: boolean;
  debounce: number;
  candidates: number;
  languagesOff: string[];
  announce: boolean;

  /** What every kernel is told: the settings for all kernels, and what the user or an administrator chose above. */
  everywhere: Settings;
}

/** The settings that are a kernel's, too: what they are called there, and what they are if nobody chooses. */
const SHARED = {
  mode: ['mode', 'automatic'],
  afterEnter: ['after_enter', 'smart']
} as const;

type Shared = keyof typeof SHARED;

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

  /**
   * A kernel's settings were kept for new kernels, or forgotten: what stands here must not say otherwise. Returns
   * whether something did.
   */
  async saved(saved: boolean, settings: Settings): Promise<boolean> {
    const registered = this._settings;
    const before = JSON.stringify(registered?.user);
    if (!registered) {
      return false;
    }
    const { kernel } = registered.user as { kernel?: Settings };
    if (!saved) {
      for (const name of ['kernel', ...Object.keys(SHARED)]) {
        if (name in registered.user) {
          await registered.remove(name);
        }
      }
    } else {
      const mine = Object.entries({ ...(registered.composite.kernel as Settings), ...kernel });
      // A setting may be called like a member of every object.
      const known = new Map(Object.entries(settings));
      const theirs = mine.map(([name, value]) => [name, known.has(name) ? known.get(name) : value]);
      if (JSON.stringify(mine) !== JSON.stringify(theirs)) {
        await registered.set('kernel', Object.fromEntries(theirs));
      }
      for (const name of Object.keys(SHARED) as Shared[]) {
        const value = settings[SHARED[name][0]];
        if (this._isChosen(name) && typeof value === 'string' && !this.isLocked) {
          await registered.set(name, value);
        }
      }
    }
    return JSON.stringify(registered.user) !== before;
  }

  private _values(): IFrontEndSettings {
    const values = (this._settings?.composite ?? {}) as Record<string, unknown>;
    const chosen = this.isLocked ? this._settings!.default('mode') : values.mode;
    const mode = MODES.find(known => known === chosen) ?? SHARED.mode[1];
    const afterEnter = AFTER_ENTER.find(known => known === values.afterEnter) ?? 'smart';
    return {
      mode,
      afterEnter,
      isLocked: this.isLocked,
      autoLoad: values.autoLoad !== false,
      debounce: numberOr(values.debounce, 100),
      candidates: Math.min(10, Math.max(1, Math.round(numberOr(values.candidates, 3)))),
      languagesOff: Array.isArray(values.languagesOff) ? values.languagesOff.map(String) : [],
      announce: values.announce === true,
      everywhere: {
        ...(values.kernel as Settings | undefined),
        ...(this._isChosen('mode') ? { mode } : {}),
        ...(this._isChosen('afterEnter') ? { after_enter: afterEnter } : {})
      }
    };
  }

  /** Whether the user or an administrator has set it; else the kernel's config file has the say. */
  private _isChosen(name: Shared): boolean {
    const settings = this._settings;
    return !!settings && (name in settings.user || settings.default(name) !== SHARED[name][1]);
  }

  private _settings: ISettingRegistry.ISettings | null = null;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise;
}
