"""Things that happen during a solve: declared, found, located, logged."""
