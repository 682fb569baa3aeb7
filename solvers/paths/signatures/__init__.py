"""Signatures of paths: iterated integrals, their logarithms, and the algebra in which they multiply."""
