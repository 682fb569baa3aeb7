"""The derivative of the numerical solution itself, to rounding."""
