/**
 * When to ask: what the settings, the notebook and the cell allow, and what Enter is worth.
 */

/** Ghost text while typing; only when asked for with Alt+\; not at all. */
export type Mode = 'automatic' | 'manual' | 'off';

export type AfterEnter = 'off' | 'smart' | 'always';

/** In the order from the most to the least that is allowed. */
export const MODES: readonly Mode[] = ['automatic', 'manual', 'off'];

export const AFTER_ENTER: readonly AfterEnter[] = ['off', 'smart', 'always'];

/** The tag of a cell that is left alone. */
export const OFF_TAG = 'sc2-off';

/** The key in a notebook's metadata, `{"jupyter_sc2": {"mode": "off"}}`. */
export const METADATA = 'jupyter_sc2';

/** What all of these allow. A notebook or a cell can forbid, and allow nothing that the settings forbid. */
export function strictest(...modes: (Mode | undefined)[]): Mode {
  return MODES[Math.max(0, ...modes.map(mode => (mode ? MODES.indexOf(mode) : 0)))];
}

/** The mode that a notebook's metadata ask for; undefined where they say nothing that is known. */
export function modeOf(metadata: unknown): Mode | undefined {
  const mode = (metadata as { mode?: unknown } | null | undefined)?.mode;
  return MODES.find(known => known === mode);
}

/**
 * Whether to ask after Enter, with the cursor on a blank line behind `prefix`.
 *
 * It makes sense where the line above opens something: a block, a bracket, or a comment that says what comes.
 */
export function worthAsking(policy: AfterEnter, prefix: string): boolean {
  if (policy === 'off') {
    return false;
  }
  const above = prefix.slice(0, Math.max(0, prefix.lastIndexOf('\n'))).trimEnd();
  if (policy === 'always') {
    return true;
  }
  // A blank line between says that the thought ended.
  const isNext = (prefix.slice(above.length).match(/\n/g) ?? []).length === 1;
  const line = above.slice(above.lastIndexOf('\n') + 1).trim();
  return isNext && (/[:([{,\\]$/.test(line) || line.startsWith('#'));
}
