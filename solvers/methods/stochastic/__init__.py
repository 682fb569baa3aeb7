"""Methods for stochastic differential equations, and the order conditions that prove their coefficients."""
