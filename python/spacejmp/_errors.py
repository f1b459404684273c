"""The exceptions of this package."""


class Error(Exception):
    """What every exception of this package is."""


class NotInVMError(Error, RuntimeError):
    """This Python does not run under ``spacejmp run``."""


class StoreError(Error, OSError):
    """A call of SpaceJMP's failed; ``errno`` is the reason, as in an :class:`OSError`."""


class NotFoundError(StoreError, FileNotFoundError):
    """There is no such space, tag or version."""


class WrongTypeError(Error, TypeError):
    """The content of the space is not what this package makes."""


class DamagedError(Error):
    """The content of the space cannot be right."""


class VisitError(Error, RuntimeError):
    """Something of a visit was used after its end, in another thread, or while another visit suspends it."""


class ReadOnlyError(VisitError):
    """Something was to be changed in a visit that reads."""


class Abort(Exception):
    """Raised in a ``with space.write()`` block, ends it without an error and without any change."""
