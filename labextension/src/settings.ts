/**
 * Our settings in JupyterLab, validated and with their defaults.
 */
import type { ISettingRegistry } from '@jupyterlab/settingregistry';

import { AFTER_ENTER, MODES, type AfterEnter, type Mode } from './completion/policy';
import type { Settings } from './kernel/protocol';

export interface IFrontEndSettings {
  mode: Mode;
  afterEnter: AfterEnter;

  /** Whether only an administrator may set the mode. */
  isLocked: boolean;
  autoLoad: boolean;

  /** Whether the companion completes code where a document's own kernel cannot. */
  companion: boolean;
  debounceMs: number;
  candidates: number;
  disabledLanguages: string[];
  announce: boolean;

  /** Whether the keys are told below the first ghost text. */
  hint: boolean;

  /** What every kernel is sent: the settings for all kernels, and what the user or an administrator set of the above. */
  labSettings: Settings;
}

/** The settings that a kernel has as well: their names there, and their defaults. */
const KERNEL_SETTINGS = {
  mode: ['mode', 'automatic'],
  afterEnter: ['after_enter', 'always']
} as const;

type KernelSetting = keyof typeof KERNEL_SETTINGS;

export class FrontEndSettings {
  constructor(
    private _registry: ISettingRegistry | null,
    private _plugin: string,
    private _apply: (values: IFrontEndSettings) => void
  ) {}

  /** Whether only an administrator may set the mode: `locked` in overrides.json, not in the user's own. */
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

  async set(name: keyof IFrontEndSettings, value: string | boolean): Promise<void> {
    await this._settings?.set(name, value);
  }

  /**
   * A kernel's settings were saved as defaults for new kernels, or these were deleted: JupyterLab's settings must not
   * say otherwise. Returns whether they had to be changed.
   */
  async adoptKernelDefaults(saved: boolean, settings: Settings): Promise<boolean> {
    const registered = this._settings;
    const before = JSON.stringify(registered?.user);
    if (!registered) {
      return false;
    }
    const { kernel } = registered.user as { kernel?: Settings };
    if (!saved) {
      for (const name of ['kernel', ...Object.keys(KERNEL_SETTINGS)]) {
        if (name in registered.user) {
          await registered.remove(name);
        }
      }
    } else {
      const mine = Object.entries({ ...(registered.composite.kernel as Settings), ...kernel });
      // A setting may have the name of a member that every object has.
      const known = new Map(Object.entries(settings));
      const theirs = mine.map(([name, value]) => [name, known.has(name) ? known.get(name) : value]);
      if (JSON.stringify(mine) !== JSON.stringify(theirs)) {
        await registered.set('kernel', Object.fromEntries(theirs));
      }
      for (const name of Object.keys(KERNEL_SETTINGS) as KernelSetting[]) {
        const value = settings[KERNEL_SETTINGS[name][0]];
        if (this._isSet(name) && typeof value === 'string' && !this.isLocked) {
          await registered.set(name, value);
        }
      }
    }
    return JSON.stringify(registered.user) !== before;
  }

  private _values(): IFrontEndSettings {
    const values = (this._settings?.composite ?? {}) as Record<string, unknown>;
    const chosen = this.isLocked ? this._settings!.default('mode') : values.mode;
    const mode = MODES.find(known => known === chosen) ?? KERNEL_SETTINGS.mode[1];
    const afterEnter =
      AFTER_ENTER.find(known => known === values.afterEnter) ?? KERNEL_SETTINGS.afterEnter[1];
    return {
      mode,
      afterEnter,
      isLocked: this.isLocked,
      autoLoad: values.autoLoad !== false,
      companion: values.companion !== false,
      debounceMs: numberOr(values.debounce, 100),
      candidates: Math.min(10, Math.max(1, Math.round(numberOr(values.candidates, 3)))),
      disabledLanguages: Array.isArray(values.languagesOff) ? values.languagesOff.map(String) : [],
      announce: values.announce === true,
      hint: values.hint !== false,
      labSettings: {
        ...(values.kernel as Settings | undefined),
        ...(this._isSet('mode') ? { mode } : {}),
        ...(this._isSet('afterEnter') ? { after_enter: afterEnter } : {})
      }
    };
  }

  /** Whether the user or an administrator has set it; otherwise the kernel's config file decides. */
  private _isSet(name: KernelSetting): boolean {
    const settings = this._settings;
    return (
      !!settings && (name in settings.user || settings.default(name) !== KERNEL_SETTINGS[name][1])
    );
  }

  private _settings: ISettingRegistry.ISettings | null = null;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise;
}
