from pyramid_retry import mark_error_retryable
from sqlalchemy import MetaData
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    # Constraints have names, by which a migration can find them.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def flush(dbsession):
    """Write what is new. Where another request has just written the same row, try all again."""
    try:
        dbsession.flush()
    except IntegrityError as error:
        # The next attempt finds the row of the other.
        mark_error_retryable(error)
        raise
