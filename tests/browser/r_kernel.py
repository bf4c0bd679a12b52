"""A kernel that calls itself R and runs nothing: its cells are in another language than Python."""

from __future__ import annotations

from typing import Any

from ipykernel.kernelbase import Kernel


class RKernel(Kernel):
    implementation = "toy-r"
    implementation_version = "1"
    banner = "Not R, but called so"
    language_info = {  # noqa: RUF012 - ipykernel's way
        "name": "R",
        "version": "4.4",
        "mimetype": "text/x-rsrc",
        "codemirror_mode": "r",
        "file_extension": ".r",
    }

    async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> Any:
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }
