"""What a connection does with Pyramid: its handshake, and later calls, as requests."""
