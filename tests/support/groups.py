"""Which tests run in one process, one after another, where several run the tests (`pytest -n 3`).

What is dear to make is made once: a group has a file's fixtures to itself, and a browser with its two servers serves
several files.
"""

from __future__ import annotations

# Two browsers at once leave no core idle; each group takes about as long as the other.
BROWSERS = (
    ("companion", "ghost_text", "one_value", "accepting", "streaming", "attribution"),
    (
        "first_minute",
        "standing",
        "states",
        "places",
        "random_typing",
        "calm",
        "isolation",
        "panel_layout",
        "flicker",
    ),
)
KERNELS = ("ipykernel 7", "ipykernel 6")


def group_of(nodeid: str) -> str:
    """The group of a test, by its node id."""
    file, _, name = nodeid.partition("::")
    if file.startswith("tests/browser/"):
        stem = file.removeprefix("tests/browser/test_").removesuffix(".py")
        return next((f"browser {n}" for n, stems in enumerate(BROWSERS) if stem in stems), file)
    if file == "tests/kernel/test_kernel.py":
        return next((kernel for kernel in KERNELS if f"[{kernel}" in name), file)
    return file


def scheduler(config: object, log: object) -> object:
    """What xdist deals out tests by: whole groups, in the order in which the tests were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # type: ignore[attr-defined]
    return Groups(config, log)
