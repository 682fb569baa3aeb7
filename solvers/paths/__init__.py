"""What drives an equation from outside: Brownian motion, its increments, the paths of other libraries."""
