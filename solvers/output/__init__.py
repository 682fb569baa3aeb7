"""What a solve leaves behind: saved rows, dense output, the solution object."""
