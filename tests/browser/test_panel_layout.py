"""The panel as it is drawn: nothing cut or overlapping, readable in both themes, usable without a mouse."""

from __future__ import annotations

import json
import re

import pytest

from tests.browser.conftest import PATIENCE_MS
from tests.browser.test_places import command
from tests.support.paths import ROOT

AXE = ROOT / "labextension/node_modules/axe-core/axe.min.js"
WIDTHS = (250, 320, 600)
THEMES = ("JupyterLab Light", "JupyterLab Dark")
# One suggestion on each of the last days, some of them accepted and kept.
USAGE = """
import time
_usage = get_ipython().magics_manager.magics["line"]["sc2"].__self__.parts.usage
from jupyter_sc2.usage import Event as _Event
_usage.reset()  # a second try has other numbers else
for _day in range(13):
    for _n in range(3 * _day + 1):
        _at, _id = time.time() - 86400 * _day - 60, f"{_day}-{_n}"
        _usage._add(_Event(_at, "a.ipynb", "shown", _id, size=20, ms=300.0))
        if _n % 2:
            _usage._add(_Event(_at, "a.ipynb", "accepted", _id, "all", 18))
            _usage._add(_Event(_at, "a.ipynb", "later", _id, size=1))
            _usage._add(_Event(_at, "a.ipynb", "run", _id, size=1))
del _usage, _Event, _day, _n, _at, _id
"""
# In the sidebar: the visible texts and controls that leave their place or lie over another.
FAULTS = """() => {
  const root = document.querySelector('.jp-sc2-Sidebar');
  const frame = root.getBoundingClientRect();
  const right = frame.left + root.clientWidth;
  const faults = [], boxes = [];
  const name = node => (node.closest('[class]')?.className ?? '') + ': ' + node.textContent.trim().slice(0, 40);
  const canvas = document.createElement('canvas').getContext('2d');
  for (const node of root.querySelectorAll('*')) {
    const style = getComputedStyle(node);
    if (!node.getClientRects().length || style.visibility === 'hidden' || node.closest('.lm-mod-hidden, option, svg')) {
      continue;
    }
    const control = node.matches('select, input, button, progress, .slider-container, .widget-readout, svg');
    if (!control && node.closest('.slider-container')) {
      continue;
    }
    const texts = [...node.childNodes].filter(child => child.nodeType === Node.TEXT_NODE && child.data.trim());
    if (style.overflowX !== 'visible' && node !== root && node.scrollWidth > node.clientWidth + 1
        && !node.matches('input, .jp-sc2-Tokens')) {
      faults.push('cut: ' + name(node));
    }
    if (node.matches('select')) {
      canvas.font = style.font;
      const text = node.selectedOptions[0]?.text ?? '';
      const room = node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      if (canvas.measureText(text).width > room + 1) {
        faults.push('cut choice: ' + text);
      }
    }
    const rects = [];
    if (control) {
      rects.push(node.getBoundingClientRect());
    } else {
      for (const text of texts) {
        const range = document.createRange();
        range.selectNodeContents(text);
        rects.push(...range.getClientRects());
      }
    }
    for (const rect of rects) {
      if (!rect.width || !rect.height) {
        continue;
      }
      if (rect.left < frame.left - 0.5 || rect.right > right + 0.5) {
        faults.push('outside: ' + name(node));
      }
      boxes.push({ node, rect });
    }
  }
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.node.contains(b.node) || b.node.contains(a.node)) {
        continue;
      }
      const wide = Math.min(a.rect.right, b.rect.right) - Math.max(a.rect.left, b.rect.left);
      const high = Math.min(a.rect.bottom, b.rect.bottom) - Math.max(a.rect.top, b.rect.top);
      if (wide > 1 && high > 3) {
        faults.push('overlap: ' + name(a.node) + ' | ' + name(b.node));
      }
    }
  }
  return { faults, boxes: boxes.length, width: Math.round(frame.width) };
}"""
# The texts of the panel, the titles that hover shows among them; no name, message or licence of a model's.
TEXTS = """() => {
  const root = document.querySelector('.jp-sc2-Panel');
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement.closest('details, [role=alert], pre')) {
      texts.push(walker.currentNode.data.trim());
    }
  }
  root.querySelectorAll('[title], [aria-label]').forEach(node => texts.push(node.title));
  return texts.filter(Boolean);
}"""


def set_width(page, width: int) -> None:
    page.evaluate(
        """width => {
          const split = window.jupyterapp.shell._hsplitPanel;
          const total = split.node.clientWidth;
          const sizes = split.relativeSizes().map(() => 0);
          sizes[sizes.length - 1] = width;
          sizes[sizes.length - 2] = total - width;
          split.setRelativeSizes(sizes);
        }""",
        width,
    )
    page.wait_for_timeout(300)


def set_theme(page, theme: str) -> None:
    command_args = json.dumps({"theme": theme})
    page.evaluate(
        f"() => window.jupyterapp.commands.execute('apputils:change-theme', {command_args})"
    )
    light = str("Light" in theme).lower()
    page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{light}'")
    page.wait_for_timeout(500)


def serious_faults(page, selector: str) -> list[str]:
    """What axe-core finds below this element that keeps somebody from using it."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("selector => axe.run(selector)", selector)
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def panel_page(chromium, slow_lab):
    from tests.browser.conftest import LAB, open_page

    notebook = open_page(
        chromium, slow_lab, slow_lab.notebook("layout.ipynb", "import numpy as np", ""), LAB
    )
    page = notebook.page
    notebook.wait_ready()
    notebook.execute(USAGE)
    notebook.enter(1)
    notebook.type("result = ")
    notebook.ghost_text()
    notebook.press("Escape")
    page.set_viewport_size({"width": 1280, "height": 900})
    command(notebook, "jupyter_sc2:open-panel")
    page.locator(".jp-sc2-Panel .jp-sc2-Tokens").wait_for(timeout=PATIENCE_MS)
    page.locator(".jp-sc2-Panel .jp-sc2-Chart").wait_for(timeout=PATIENCE_MS)
    page.locator(".jp-sc2-Panel select >> text=/s\\/line/").first.wait_for(state="attached")
    page.get_by_role("button", name="Advanced").click()
    yield page
    set_theme(page, THEMES[0])
    slow_lab.set("@jupyterlab/apputils-extension:themes")
    notebook.leave()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_in_the_panel_is_cut_or_overlaps(panel_page, width, theme):
    set_theme(panel_page, theme)
    set_width(panel_page, width)
    found = panel_page.evaluate(FAULTS)
    assert abs(found["width"] - width) <= 4 and found["boxes"] > 80
    assert found["faults"] == []


def test_the_closed_list_shows_a_long_name_and_what_the_model_needs_stands_below(panel_page):
    set_width(panel_page, 250)
    models = panel_page.locator(".jp-sc2-Panel").get_by_label("Model", exact=True)
    texts = models.inner_text().replace("\xa0", " ")
    assert re.search(r"embedded, [\d.]+ s/line, \d", texts)
    assert re.search(r"deepseek-coder-6.7b, ([\d.]+ s/line|too large), \d", texts)
    try:
        models.select_option(
            value=models.evaluate(
                "select => [...select.options].find(option => option.text.startsWith('deepseek-coder-6.7b')).value"
            )
        )
        panel_page.locator(".jp-sc2-Panel-facts", has_text="6.7B parameters · ").wait_for()
        panel_page.wait_for_timeout(500)
        assert panel_page.evaluate(FAULTS)["faults"] == []
    finally:
        models.select_option(index=0)
        panel_page.locator(".jp-sc2-Panel-facts", has_text="6.7B parameters · ").wait_for(
            state="detached"
        )


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_no_serious_fault_in_the_panel(panel_page, theme):
    set_theme(panel_page, theme)
    set_width(panel_page, 320)
    assert serious_faults(panel_page, ".jp-sc2-Sidebar") == []


def test_no_text_of_the_panel_is_longer_than_sixty_characters(panel_page):
    assert [text for text in panel_page.evaluate(TEXTS) if len(text) > 60] == []


def test_the_chart_has_a_title_an_axis_and_a_legend(panel_page):
    chart = panel_page.locator(".jp-sc2-Panel .jp-sc2-Chart")
    text = chart.inner_text()
    assert "Suggestions per day, last 14 days" in text
    assert "shown" in text and "accepted" in text
    assert chart.locator(".jp-sc2-Chart-y span").all_inner_texts() == ["40", "20", "0"]
    assert chart.locator(".jp-sc2-Chart-x span").all_inner_texts()[-1] == "today"
    assert chart.locator("svg g").count() == 14
    label = chart.locator("[role=img]").get_attribute("aria-label")
    assert label and "shown" in label and "accepted" in label


def test_the_keyboard_reaches_each_control_of_the_panel_from_top_to_bottom(panel_page):
    panel_page.locator(".jp-sc2-Panel select").first.focus()
    reached = []
    for _ in range(80):
        where = panel_page.evaluate(
            "() => document.activeElement.closest('.jp-sc2-Panel')"
            " ? [...document.querySelectorAll('.jp-sc2-Panel *')].indexOf(document.activeElement) : -1"
        )
        if where < 0:
            break
        reached.append(where)
        panel_page.keyboard.press("Tab")
    assert reached == sorted(reached)
    controls = panel_page.evaluate(
        """() => {
          const all = [...document.querySelectorAll('.jp-sc2-Panel *')];
          return all.filter(node => node.offsetParent && !node.disabled
            && node.matches('select, input, button, summary, [role=slider], a[href]')).map(node => all.indexOf(node));
        }"""
    )
    assert set(controls) <= set(reached) and len(controls) > 25


def test_keys_move_a_slider_and_what_it_says_follows(panel_page):
    slider = panel_page.get_by_role("slider", name="Confidence")
    assert slider.get_attribute("aria-valuetext") == "auto"
    slider.focus()
    panel_page.keyboard.press("ArrowLeft")
    panel_page.wait_for_function(
        "() => document.querySelector('.jp-sc2-Panel [aria-label=Confidence]').ariaValueText !== 'auto'"
    )
    assert "%" in str(slider.get_attribute("aria-valuetext"))
    panel_page.keyboard.press("ArrowRight")
    panel_page.wait_for_function(
        "() => document.querySelector('.jp-sc2-Panel [aria-label=Confidence]').ariaValueText === 'auto'"
    )


def test_what_is_folded_says_so(panel_page):
    button = panel_page.get_by_role("button", name="Advanced")
    assert button.get_attribute("aria-expanded") == "true"
    button.press("Enter")
    panel_page.wait_for_function(
        "() => document.querySelector('.jp-sc2-Panel-fold').ariaExpanded === 'false'"
    )
    assert not panel_page.get_by_label("Top k").is_visible()
    button.press("Enter")
    panel_page.get_by_label("Top k").wait_for()


# The settings editor's page, and the menu of the status bar


def test_the_settings_page_fits_into_a_window_of_1280_pixels(panel_page):
    page = panel_page
    page.evaluate(
        "() => window.jupyterapp.commands.execute('settingeditor:open', {query: 'Code Completion (SC2)'})"
    )
    page.locator("select[id$='plugin_mode']").wait_for()
    page.evaluate("() => window.jupyterapp.shell.collapseRight()")
    page.wait_for_timeout(800)
    wide = page.evaluate(
        """() => {
          const panel = document.querySelector('.jp-SettingsPanel');
          const right = panel.getBoundingClientRect().right;
          return [...panel.querySelectorAll('*')]
            .filter(node => node.getClientRects().length)
            .filter(node => node.getBoundingClientRect().right > right + 1)
            .map(node => `${node.tagName}.${node.className}: ${node.textContent.slice(0, 50)}`);
        }"""
    )
    assert page.viewport_size["width"] == 1280 and wide == []
    ours = "[id^='jp-SettingsEditor-jupyter-sc2'], .jp-SettingsForm"
    assert serious_faults(page, ours) == []


def test_the_menu_is_short_and_axe_finds_no_serious_fault_in_it(panel_page):
    page = panel_page
    page.evaluate(
        "() => window.jupyterapp.shell.activateById(window.jupyterapp.shell.widgets('main').next().value.id)"
    )
    page.locator(".jp-sc2-StatusItem-button").click()
    page.locator(".jp-sc2-Menu").wait_for()
    texts = [
        text for text in page.locator(".jp-sc2-Menu .lm-Menu-itemLabel").all_inner_texts() if text
    ]
    assert len(texts) > 5 and [text for text in texts if len(text) > 60] == []
    assert serious_faults(page, ".jp-sc2-Menu") == []
    page.keyboard.press("Escape")
