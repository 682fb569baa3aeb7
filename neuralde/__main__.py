"""``python -m neuralde``: the same as the command ``neuralde``."""

import sys

from .commands.cli import main

sys.exit(main())
