"""Fractional Brownian motion: exact samples on a grid of times, its Markov approximation, estimates of its Hurst index."""
