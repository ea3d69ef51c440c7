"""How long a test waits for an application, and an application for a client that has left."""

#: Seconds to wait for a consumer to answer a handshake, or to end when its client has left.
TIMEOUT = 5.0

#: Sending to a websocket's client that has left fails when the consumer has received that, or so
#: many seconds later: it is to finish with what the test sent before it left, without a race.
GRACE = 0.5
