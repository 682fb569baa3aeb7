"""The programs of ``neuralde bench``, each with ``run``, ``show`` and ``draw``."""
