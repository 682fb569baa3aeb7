"""Steady states: how they are searched for, and the algebra of it."""
