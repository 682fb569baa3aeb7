"""What everything below the methods shares: numbers of the clock, packed states, norms, what a callable holds."""
