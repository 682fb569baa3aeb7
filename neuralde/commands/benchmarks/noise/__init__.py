"""What stochastic solves and exact fractional paths cost."""
