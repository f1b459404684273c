"""Persistent address spaces for Python programs that run under ``spacejmp run``.

A space is a dict that stays: what a program puts into it is there for the next one, and for others at the same
time. Changes are transactions::

    import spacejmp

    with spacejmp.open("shelf") as space:
        with space.write() as root:
            root["books"] = [{"title": "Emma", "pages": 474}]
        with space.read() as root:
            print(root["books"][0]["title"])

Values are ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``, ``tuple``, ``list``, ``dict``, ``set`` and
arrays of numbers (NumPy's, ``array.array``, ``memoryview``), nested as one likes.
"""

import os as _os
import sys as _sys
from collections import abc as _abc

from ._core import Array, Dict, List, Set, Space, Transaction, come_back as _come_back, in_vm, open
from ._errors import (
    Abort,
    DamagedError,
    Error,
    NotFoundError,
    NotInVMError,
    ReadOnlyError,
    StoreError,
    VisitError,
    WrongTypeError,
)

__all__ = [
    "Abort",
    "Array",
    "DamagedError",
    "Dict",
    "Error",
    "List",
    "NotFoundError",
    "NotInVMError",
    "ReadOnlyError",
    "Set",
    "Space",
    "StoreError",
    "Transaction",
    "VisitError",
    "WrongTypeError",
    "in_vm",
    "open",
]


# The native half declares that it needs the GIL, so that a free-threaded interpreter takes it back when that half is imported.
# One that was told otherwise does not: two threads could be in one object, which nothing there expects.
if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "spacejmp needs the GIL, and this free-threaded Python was told to do without: start it without -X gil=0 and PYTHON_GIL=0"
    )


def _complete(cls, base):
    """Gives a class of the native half the methods of an abstract class that it lacks."""
    for part in base.__mro__:
        if part in (object, _abc.Hashable):
            continue
        for name, value in vars(part).items():
            is_method = callable(value) or isinstance(value, classmethod)
            if is_method and name not in vars(cls) and name not in _NOT_METHODS:
                setattr(cls, name, value)
    base.register(cls)


_NOT_METHODS = {"__new__", "__init__", "__subclasshook__", "__class_getitem__", "__hash__"}


def _setdefault(self, key, default=None, /):
    """The value of ``key``, which is ``default`` from now on if there was none."""
    if key not in self:
        self[key] = default
    return self[key]


def _array(self, dtype=None, copy=None):
    """For ``numpy.asarray``, where the buffer cannot be had: the exception says why."""
    import numpy

    view = numpy.asarray(memoryview(self), dtype=dtype)
    return view.copy() if copy else view


Dict.setdefault = _setdefault
Set._from_iterable = staticmethod(set)
Array.__array__ = _array
_complete(Dict, _abc.MutableMapping)
_complete(List, _abc.MutableSequence)
_complete(Set, _abc.MutableSet)

# A thread that has looked at a buffer outside of a visit can fork.
_os.register_at_fork(before=_come_back)
