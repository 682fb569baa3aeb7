"""Results of papers that train nothing: ``neuralde reproduce`` computes them in one go and writes them beside the papers'."""

from . import hurst, rough_bergomi
from .study import Study

STUDIES: dict[str, Study] = {"hurst-realized-vol": hurst.STUDY, "rough-bergomi": rough_bergomi.STUDY}
"""By the name that ``neuralde reproduce`` takes."""

__all__ = ["STUDIES", "Study"]
