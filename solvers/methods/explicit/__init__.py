"""Explicit Runge-Kutta methods, each with its tableau, which is built and proved when the first one is made."""
