"""Fractional noise: its approximation by processes with a short memory, and their exact simulation."""
