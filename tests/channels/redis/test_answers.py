"""What Redis's errors mean."""

import pytest
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.redis import answers


@pytest.mark.parametrize(
    "answer, is_elsewhere",
    [
        ("NOREPLICAS Not enough good replicas to write.", True),
        # As Redis 6 says it.
        (
            "Error running script (call to f_0): @user_script:24: @user_script: 24: "
            "-READONLY You can't write against a read only replica.",
            True,
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("no READONLY word", False),
        ("this user has no permissions to run the 'evalsha' command", True),
        # As Redis 6 says it.
        ("this user has no permissions to run the 'eval' command or its subcommand", True),
        ("ACL failure in script: User default has no permissions to run the 'zadd' command", False),
    ],
)
def test_what_says_that_a_server_is_not_the_one_to_talk_to(answer, is_elsewhere):
    assert answers.is_elsewhere(ResponseError(answer)) is is_elsewhere
