"""One connection to a consumer, from its first message to its end."""
