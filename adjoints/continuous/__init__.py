"""The derivative of the equation, by a backward solve."""
