"""How to integrate: problems, Runge-Kutta methods, step-size control, saving. Knows torch only."""
