"""The stochastic tableaus that come with the library, each built and proved on first use.

>>> from neuralde.solvers.methods.stochastic.tableaus import SOSRI
>>> SOSRI.orders["diagonal"], SOSRI.embedded_order
(1.5, 1.0)
"""

from typing import TYPE_CHECKING

from ...lazy import lazily

if TYPE_CHECKING:  # so that type checkers and editors know the names
    from .shark import SHARK as SHARK
    from .slowrk import SLOWRK as SLOWRK
    from .sosri import SOSRI as SOSRI
    from .spark import SPARK as SPARK
    from .sra import SRA1 as SRA1
    from .sra import SRA3 as SRA3
    from .sriw1 import SRIW1 as SRIW1

_FILES = {
    "SRIW1": "sriw1",
    "SOSRI": "sosri",
    "SRA1": "sra",
    "SRA3": "sra",
    "SHARK": "shark",
    "SLOWRK": "slowrk",
    "SPARK": "spark",
}

__all__ = list(_FILES)

__getattr__, __dir__ = lazily(__name__, globals(), _FILES)
