"""Stochastic differential equations: the coefficients of their methods, proved when they are built."""
