"""Who may log in."""

import hashlib
import hmac
import secrets

from sqlalchemy.orm import Mapped, mapped_column

from .meta import Base

#: What OWASP recommends for scrypt where it may take 16 MiB: n, r, p.
COST = (2**14, 8, 5)


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: With which they log in.
    name: Mapped[str] = mapped_column(unique=True)
    #: What others see.
    title: Mapped[str]
    password: Mapped[str]
    is_moderator: Mapped[bool] = mapped_column(default=False)
    #: A session of another generation is over: each logout begins a new one.
    generation: Mapped[int] = mapped_column(default=0)

    def set_password(self, password, cost=COST):
        salt = secrets.token_bytes(16)
        parts = (*cost, salt.hex(), _scrypt(password, salt, *cost).hex())
        self.password = "$".join(map(str, parts))


def check_password(user, password):
    """Whether it is the password of ``user``. It takes as long for None."""
    stored = user.password if user is not None else NOBODYS
    *cost, salt, expected = stored.split("$")
    found = _scrypt(password, bytes.fromhex(salt), *map(int, cost))
    return hmac.compare_digest(found, bytes.fromhex(expected)) and user is not None


def _scrypt(password, salt, n, r, p):
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2**26)


#: A password that nobody has.
NOBODYS = "$".join(map(str, (*COST, "00" * 16, "00" * 64)))
