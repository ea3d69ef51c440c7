"""The commands that this package adds to Pyramid's own."""
