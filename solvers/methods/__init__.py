"""The integration methods, a file for each with its tableau, and what proves them."""
