/**
 * When to complete: what the settings, the notebook and the cell allow, and after which lines Enter triggers a request.
 */

import type { IAfterEnter } from '../kernel/languages';

/** Ghost text while typing; only on request, with Alt+\; or not at all. */
export type Mode = 'automatic' | 'manual' | 'off';

export type AfterEnter = 'off' | 'smart' | 'always';

/** From the least to the most restrictive. */
export const MODES: readonly Mode[] = ['automatic', 'manual', 'off'];

export const AFTER_ENTER: readonly AfterEnter[] = ['off', 'smart', 'always'];

/** The tag of a cell in which nothing is completed. */
export const OFF_TAG = 'sc2-off';

/** The key in a notebook's metadata, `{"jupyter_sc2": {"mode": "off"}}`. */
export const METADATA_KEY = 'jupyter_sc2';

/** The most restrictive of these modes: a notebook or a cell cannot allow what the settings forbid. */
export function mostRestrictive(...modes: (Mode | undefined)[]): Mode {
  return MODES[Math.max(0, ...modes.map(mode => (mode ? MODES.indexOf(mode) : 0)))];
}

/** The mode in a notebook's metadata; undefined if they name none that is known. */
export function modeOf(metadata: unknown): Mode | undefined {
  const mode = (metadata as { mode?: unknown } | null | undefined)?.mode;
  return MODES.find(known => known === mode);
}

/** What holds while a kernel has not said otherwise. */
const PYTHON: IAfterEnter = { comment: '#', openers: '[:([{,\\\\]$' };

function isComment(line: string, { comment }: IAfterEnter): boolean {
  return comment !== '' && line.startsWith(comment);
}

/**
 * Whether to complete the blank line after Enter, with the cursor behind `prefix`.
 *
 * The smart policy does so where the line above opens a block or a bracket, or is a comment that says what comes.
 */
export function shouldTriggerAfterEnter(
  policy: AfterEnter,
  prefix: string,
  rules: IAfterEnter = PYTHON
): boolean {
  if (policy === 'off') {
    return false;
  }
  const above = prefix.slice(0, Math.max(0, prefix.lastIndexOf('\n'))).trimEnd();
  if (policy === 'always') {
    return true;
  }
  // A blank line in between ends the thought.
  const isNextLine = (prefix.slice(above.length).match(/\n/g) ?? []).length === 1;
  const line = above.slice(above.lastIndexOf('\n') + 1).trim();
  return isNextLine && (isComment(line, rules) || new RegExp(rules.openers, 'i').test(line));
}
