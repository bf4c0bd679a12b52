"""`python -m jupyter_sc2.cli`, for when the command `jupyter sc2` is not on the path."""

import sys

from jupyter_sc2.cli import main

sys.exit(main())
