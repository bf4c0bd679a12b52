"""Runs one step of a longer job: one line with its time, and its output only if it fails.

    python3 scripts/step.py "Front end: packages" labextension jlpm install

The second argument is the folder to run it in. Exits with the command's own status. Needs nothing but Python's
standard library.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time

WIDTH = 64  # columns before the time


def main(argv: list[str]) -> int:
    title, folder, program, *arguments = argv
    # Windows would look beside this Python first, and not on PATH.
    command = [shutil.which(program) or program, *arguments]
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        print(f"{title} ".ljust(WIDTH, "."), end=" ", flush=True)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            print("interrupted")
            return 130
        seconds = time.monotonic() - started
        print(f"{seconds:4.0f} s" + (f", failed with status {status}" if status else ""))
        if status:
            output.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(output.read())
            print(f"This failed: {' '.join(command)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
