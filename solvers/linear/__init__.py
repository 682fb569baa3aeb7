"""Linear algebra of a linearized field: products with its Jacobian, and systems with it."""
