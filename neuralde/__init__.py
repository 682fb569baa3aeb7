"""neuralde: differential equations in PyTorch that know what they cost."""

from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _find_spec("neuralde.solvers") is None:
    raise ImportError("this is neuralde's source tree, not an installed neuralde: run `make dev` or `pip install -e .`")

from ._version import __version__ as __version__

if _TYPE_CHECKING:
    from neuralde.adjoints import *  # noqa: F403
    from neuralde.solvers import *  # noqa: F403

    from ._api import *  # noqa: F403


def __getattr__(name: str) -> object:
    """Import everything when a name is first asked for.

    pytest imports this package at every start, because its plugin lives here, and must not pay for torch. No module of
    the package has the name of something that is offered here, so it does not matter which one is imported first.
    """
    if not (name.startswith("_") and name != "__all__"):  # inspection asks any module for names such as __wrapped__
        from . import _api

        globals().update({offered: getattr(_api, offered) for offered in _api.__all__}, __all__=_api.__all__)
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is there, and what would be after an import."""
    from . import _api

    return sorted({*globals(), *_api.__all__})
