"""How to differentiate a solve."""
