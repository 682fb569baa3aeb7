"""What runs attempts other than the plain loop: one compiled graph, blocks of attempts, CUDA graphs."""
