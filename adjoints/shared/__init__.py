"""What adjoints have in common: which tensors a solve depends on, and what surrounds the calls of its field."""
