"""From arguments that are checked to a plan, and from a plan to a finished solve."""
