/**
 * Names for controls that have none: the sliders of ipywidgets and the fields beside them, the button that folds, and the
 * controls of our page in the settings editor.
 */

/** The stylesheet starts these animations when such an element appears, in the sidebar or below a cell. */
const APPEARED = 'jp-sc2-appeared';

/** Follows the whole page: a panel may be shown anywhere. */
export function nameControls(document: Document): void {
  document.addEventListener('animationstart', ({ animationName, target }) => {
    if (animationName === APPEARED && target instanceof HTMLElement) {
      if (target.classList.contains('noUi-handle')) {
        nameSlider(target);
      } else if (target.closest('.jp-FormGroup-content')) {
        nameSetting(target);
      } else {
        followFold(target);
      }
    }
  });
}

/** JupyterLab's settings editor shows a title above a control, but does not connect them. */
function nameSetting(control: HTMLElement): void {
  const title = control.closest('.jp-FormGroup-content')?.querySelector('.jp-FormGroup-fieldLabel');
  if (title?.textContent) {
    control.setAttribute('aria-label', title.textContent);
  }
}

function nameSlider(handle: HTMLElement): void {
  const row = handle.closest('.widget-slider');
  const label = row?.querySelector('.widget-label')?.textContent ?? '';
  const readout = row?.querySelector<HTMLElement>('.widget-readout');
  handle.setAttribute('aria-label', label);
  if (!readout) {
    return;
  }
  if (readout.isContentEditable) {
    readout.setAttribute('role', 'textbox');
    readout.setAttribute('aria-label', label);
  }
  // The slider of a choice gives the choice's number.
  const tell = () => {
    const text = readout.textContent ?? '';
    if (handle.getAttribute('aria-valuetext') !== text) {
      handle.setAttribute('aria-valuetext', text);
    }
  };
  const observer = new MutationObserver(tell);
  observer.observe(readout, { childList: true, characterData: true, subtree: true });
  observer.observe(handle, { attributeFilter: ['aria-valuetext'] });
  tell();
}

function followFold(button: HTMLElement): void {
  const tell = () => {
    const isOpen = String(button.classList.contains('jp-mod-open'));
    if (button.getAttribute('aria-expanded') !== isOpen) {
      button.setAttribute('aria-expanded', isOpen);
    }
  };
  new MutationObserver(tell).observe(button, { attributeFilter: ['class'] });
  tell();
}
