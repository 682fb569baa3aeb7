"""How to integrate: problems, Runge-Kutta methods, step-size control, saving. Knows torch only."""

if __name__ != "neuralde.solvers":
    raise ImportError(f"{__name__} is the package neuralde.solvers: run `make dev`, then import it by that name")
