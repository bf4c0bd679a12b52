/**
 * Where ghost text stands on the page, for what is shown beside it.
 */

/** Ghost text moves while it streams or is scrolled; what stands beside it follows in these intervals. */
export const FOLLOW_MS = 100;

const GHOST_TEXT =
  '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer):not(:empty)';

/** The pieces of visible ghost text in an editor, in order. */
export function ghostTextIn(host: HTMLElement | null): HTMLElement[] {
  return Array.from(host?.querySelectorAll<HTMLElement>(GHOST_TEXT) ?? []).filter(
    piece => piece.offsetParent
  );
}

/** The box of the last line of visible ghost text in an editor; undefined if there is none. */
export function endOfGhostText(host: HTMLElement | null): DOMRect | undefined {
  const rects = ghostTextIn(host).pop()?.getClientRects();
  return rects?.[rects.length - 1];
}
