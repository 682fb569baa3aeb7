"""``python -m neuralde``: the same as the command ``neuralde``."""

import sys

from .cli import main

sys.exit(main())
