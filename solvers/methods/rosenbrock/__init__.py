"""Rosenbrock methods: linearly implicit, with one Jacobian and one factorization for each step."""
