"""The repo's tables: every model of SQLAlchemy derives from Base, here or beside its task."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """Knows all models, for tools such as Alembic."""
