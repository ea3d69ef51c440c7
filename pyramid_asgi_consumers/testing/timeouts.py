"""How long a test waits for an application, and an application for its client."""

#: Seconds to wait for a consumer to answer, or to end when its client has left.
TIMEOUT = 5.0

#: Seconds in which an event stream is to end that is read to its end, as by ``testapp.get()``.
ENDLESS = 10.0

#: An application that has sent so many bytes more than a test has received of a stream waits.
MOST_UNREAD = 1024 * 1024

#: Sending to a websocket's client that has left fails when the consumer has received that, or so
#: many seconds later: it is to finish with what the test sent before it left, without a race.
GRACE = 0.5
