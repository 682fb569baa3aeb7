"""Brownian motion as a pure function of a seed, and what its random numbers are made of."""
