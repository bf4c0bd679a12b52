"""NumPy as it is when it is first imported here.

The user's code has the same module. A function that it puts into the place of one of NumPy's later on, such as a mock
or a tracer, is not run by us.
"""

from __future__ import annotations

from types import ModuleType

import numpy

np = ModuleType(numpy.__name__)
np.__dict__.update(vars(numpy))
