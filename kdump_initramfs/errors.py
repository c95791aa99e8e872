"""The one exception family: what stops the tool, in the words an administrator needs."""

from collections.abc import Sequence


class KdumpError(Exception):
    """Stop with one line of the form *where: what is wrong*, and perhaps a hint with the remedy."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(KdumpError):
    """A configuration file, a `--set` or an argument must be edited."""


class HostError(KdumpError):
    """The machine lacks something: a package, a module, a directory, reserved memory."""


class HookError(KdumpError):
    """A hook is broken or does not keep its contract."""


class ImageError(KdumpError):
    """An image could not be written, or is not what its manifest says."""


class LoadError(KdumpError):
    """The capture kernel could not be loaded."""


class RehearsalError(KdumpError):
    """The rehearsal could not be held (a rehearsal that was held and failed is a result, not an error)."""


class SeveralProblemsError(KdumpError):
    """Several problems found in one pass, so that they can be mended in one pass."""

    def __init__(self, errors: Sequence[KdumpError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


class Problems:
    """Gathers problems of several stages, so that one pass finds all of them: `with problems: …` goes on after one."""

    def __init__(self) -> None:
        self._errors: list[KdumpError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, SeveralProblemsError):
            self._errors += error.errors
        elif isinstance(error, KdumpError):
            self._errors.append(error)
        return isinstance(error, KdumpError)

    def __bool__(self) -> bool:
        return bool(self._errors)

    @property
    def errors(self) -> tuple[KdumpError, ...]:
        return tuple(self._errors)

    def raise_all(self) -> None:
        """Raise what was gathered, if anything was."""
        raise_together(self._errors)


def raise_together(errors: Sequence[KdumpError]) -> None:
    """Raise what was gathered, if anything was; a single error as itself."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralProblemsError(errors)
