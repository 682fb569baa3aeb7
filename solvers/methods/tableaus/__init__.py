"""The tableaus that come with the library, each built and proved on first use.

A method that is not used costs nothing: the names below are resolved on first access (PEP 562).

>>> from neuralde.solvers.methods.tableaus import TSIT5
>>> TSIT5.order, TSIT5.embedded_order, TSIT5.fsal
(5, 4, True)
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:  # so that type checkers and editors know the names
    from .bosh3 import BOSH3 as BOSH3
    from .classic import EULER as EULER
    from .classic import HEUN as HEUN
    from .classic import MIDPOINT as MIDPOINT
    from .classic import RALSTON as RALSTON
    from .classic import RK4 as RK4
    from .dopri5 import DOPRI5 as DOPRI5
    from .dopri8 import DOPRI8 as DOPRI8
    from .tsit5 import TSIT5 as TSIT5
    from .vern7 import VERN7 as VERN7
    from .vern9 import VERN9 as VERN9

_FILES = {
    "EULER": "classic",
    "MIDPOINT": "classic",
    "HEUN": "classic",
    "RALSTON": "classic",
    "RK4": "classic",
    "BOSH3": "bosh3",
    "TSIT5": "tsit5",
    "DOPRI5": "dopri5",
    "DOPRI8": "dopri8",
    "VERN7": "vern7",
    "VERN9": "vern9",
}

__all__ = list(_FILES)

__getattr__, __dir__ = lazily(__name__, globals(), _FILES)
