"""The integration methods, their tableaus, and what proves them."""
