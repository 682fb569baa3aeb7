"""neuralde: differential equations in PyTorch that know what they cost."""

import sys as _sys
import threading as _threading
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _find_spec("neuralde.solvers") is None:
    raise ImportError("this is neuralde's source tree, not an installed neuralde: run `make dev` or `pip install -e .`")

from ._version import __version__ as __version__

if _TYPE_CHECKING:
    from neuralde.adjoints import *  # noqa: F403
    from neuralde.solvers import *  # noqa: F403

    from ._api import *  # noqa: F403
else:
    _LOCK = _threading.RLock()

    class _Package(_ModuleType):
        """The package until its first use: what :mod:`neuralde._api` offers is imported when a name is first asked for.

        pytest imports the package at every start, because its plugin lives there, and must not pay for torch.
        """

        _loading = False

        def __getattr__(self, name: str) -> object:
            hidden = name.startswith("__") and name != "__all__"  # what inspection asks of any module
            with _LOCK:
                if not hidden and name not in vars(self) and not _Package._loading:
                    self._load()
                if name in vars(self):
                    return vars(self)[name]
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def __setattr__(self, name: str, value: object) -> None:
            # An import of the module neuralde.solve ends by binding it here, where the name is the function's.
            if name == "solve" and isinstance(value, _ModuleType):
                value = value.solve
            super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*vars(self), *getattr(self, "__all__", ())})

        def _load(self) -> None:
            _Package._loading = True
            try:
                api = _import_module("neuralde._api")
            finally:
                _Package._loading = False
            vars(self).update({name: getattr(api, name) for name in ("__all__", *api.__all__)})
            object.__setattr__(self, "__class__", _ModuleType)

    _sys.modules[__name__].__class__ = _Package
