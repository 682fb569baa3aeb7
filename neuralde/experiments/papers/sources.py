"""Where the tables are from."""

OPENING = "Pal, Ma, Shah, Rackauckas: Opening the Blackbox, ICML 2021"
LOCAL = "Pal, Edelman, Rackauckas: Locally Regularized Neural Differential Equations, ICML 2023"
