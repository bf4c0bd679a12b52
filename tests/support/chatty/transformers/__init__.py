"""The real transformers, made to talk: it prints, warns and logs at its import, at a load and in each forward pass.

With the folder above first on PYTHONPATH it takes the place of the installed one, and hands over to it.
"""

import logging
import sys
import warnings
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_logger = logging.getLogger("transformers.chatty")
_handler = logging.StreamHandler()  # keeps the stream of this moment, as transformers' own does


def talk(when):
    print(f"chatter at {when}, printed")
    print(f"chatter at {when}, printed to stderr", file=sys.stderr, flush=True)
    warnings.warn(f"chatter at {when}, warned", FutureWarning, stacklevel=1)
    logging.getLogger("chatty").warning(f"chatter at {when}, logged")
    _handler.handle(
        _logger.makeRecord("chatty", 40, "", 0, f"chatter at {when}, handled", (), None)
    )


def _become_the_real_one():
    here = Path(__file__).parents[1]
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() != here]
    spec = PathFinder.find_spec(__name__, elsewhere)
    module = sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _talk_in_torch():
    import torch

    put_into_eval_mode = torch.nn.Module.eval

    def eval(self):
        talk("load")
        return put_into_eval_mode(self)

    torch.nn.Module.eval = eval
    torch.nn.modules.module.register_module_forward_pre_hook(lambda *args: talk("forward"))


talk("import")
_become_the_real_one()
_talk_in_torch()
