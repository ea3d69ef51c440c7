"""Websockets as functions: what they get, and who looks after them."""
