"""The right-hand sides that methods step: one kind of equation each."""
