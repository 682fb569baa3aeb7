"""One step and what decides about it: the attempt, its control, the first step size, the times to land on, reductions."""
