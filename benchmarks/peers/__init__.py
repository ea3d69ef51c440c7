"""What the peers serve: a module for each that may not be installed."""
