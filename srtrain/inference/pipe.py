"""A bounded queue between two threads that does not leave one waiting for the other for ever."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class BrokenOffError(Exception):
    """The other end has left, or the work was given up."""


class Pipe(Generic[T]):
    """Items from one thread to another, no more than ``room`` (of their weights) at a time.

    An empty pipe takes any item. ``end`` says that all was put; ``break_off``, by either end, that
    nothing more is wanted: what lies in it is dropped and both ends get a BrokenOffError.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ended = self._broken = False
        self._changed = threading.Condition()

    def wait_for_room(self, weight: int) -> None:
        """Until an item of this weight can be put without waiting, if no other thread puts any."""
        with self._changed:
            self._wait_for_room(weight)

    def put(self, item: T, weight: int) -> None:
        """Raises: BrokenOffError."""
        with self._changed:
            self._wait_for_room(weight)
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()

    def is_empty(self) -> bool:
        """Whether nothing lies in it now."""
        return not self._items

    def end(self) -> None:
        """After all that was put, iteration ends."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Unless all was put and taken already."""
        with self._changed:
            self._broken = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Raises: BrokenOffError."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended or self._broken)
                if self._broken:
                    raise BrokenOffError
                if not self._items:
                    return
                item, weight = self._items.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield item

    def _wait_for_room(self, weight: int) -> None:
        def is_room() -> bool:
            return self._broken or not self._items or self._held + weight <= self._room

        self._changed.wait_for(is_room)
        if self._broken:
            raise BrokenOffError
