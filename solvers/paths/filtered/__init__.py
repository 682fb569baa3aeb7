"""What filters of several rates make of one Brownian motion, exact at every step size."""
