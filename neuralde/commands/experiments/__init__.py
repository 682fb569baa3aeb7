"""Experiments that ``neuralde train`` runs."""
