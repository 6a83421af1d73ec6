"""One exception class for each error number of the wire, and some for what a number alone does not tell.

Who uses it: agents catch these; mux.py makes them from error replies. What must hold: every Errno has its
class, and the text of an error is the kernel's own sentence.
"""

from __future__ import annotations

from kernel.abi.errors import Errno


class AgentixError(Exception):
    """A call that did not succeed. `errno` says which way, `text` names the object and the wrong value."""

    errno: Errno = Errno.EIO

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class PermissionDenied(AgentixError):
    """EPERM: the caller lacks the right."""

    errno = Errno.EPERM


class NoSuchSegment(AgentixError):
    """ENOENT: the caller has no segment of that name."""

    errno = Errno.ENOENT


class NoSuchTask(AgentixError):
    """ESRCH: no task has that pid."""

    errno = Errno.ESRCH


class Cancelled(AgentixError):
    """EINTR: the caller cancelled this request."""

    errno = Errno.EINTR


class ModelFailed(AgentixError):
    """EIO: the model failed on this request, three times over, or it cannot be loaded."""

    errno = Errno.EIO


class NoSuchChild(AgentixError):
    """ECHILD: there is no such child to wait for."""

    errno = Errno.ECHILD


class TryAgain(AgentixError):
    """EAGAIN: a limit is reached for now; it may work later."""

    errno = Errno.EAGAIN

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after  # in seconds, where the kernel can tell


class OutOfMemory(AgentixError):
    """ENOMEM: no memory for the segment or the context."""

    errno = Errno.ENOMEM


class Busy(AgentixError):
    """EBUSY: there is something in it, such as tasks in a group, or another has it."""

    errno = Errno.EBUSY


class AlreadyExists(AgentixError):
    """EEXIST: the name is taken."""

    errno = Errno.EEXIST


class InvalidValue(AgentixError):
    """EINVAL: a field is missing, unknown, or has a wrong value."""

    errno = Errno.EINVAL


class PromptTooLong(AgentixError):
    """EFBIG: the prompt and one token do not fit the model's window."""

    errno = Errno.EFBIG


class BrokenPipe(AgentixError):
    """EPIPE: the task at the other end is gone, or the kernel closes a connection that does not read."""

    errno = Errno.EPIPE


class NoSuchCall(AgentixError):
    """ENOSYS: this kernel has no such call."""

    errno = Errno.ENOSYS


class BadMessage(AgentixError):
    """EBADMSG: what came is not a message of the protocol."""

    errno = Errno.EBADMSG


class MessageTooLong(AgentixError):
    """EMSGSIZE: a message is longer than the limit."""

    errno = Errno.EMSGSIZE


class ProtocolMismatch(AgentixError):
    """EPROTO: the kernel speaks another version, or was not greeted first."""

    errno = Errno.EPROTO


class QuotaUsed(AgentixError):
    """EDQUOT: a quota of the task, or of its group, is used up."""

    errno = Errno.EDQUOT


class TimedOut(AgentixError):
    """ETIMEDOUT: the call's timeout passed."""

    errno = Errno.ETIMEDOUT


class ShuttingDown(AgentixError):
    """ESHUTDOWN: the kernel is going down."""

    errno = Errno.ESHUTDOWN


BY_ERRNO: dict[int, type[AgentixError]] = {
    int(kind.errno): kind for kind in AgentixError.__subclasses__()
}


class NoSuchModel(AgentixError):
    """ENOENT from a call about models: the kernel serves none of that name."""

    errno = Errno.ENOENT


class NoSuchGroup(AgentixError):
    """ENOENT from a call that names a scheduling group: there is none of that path."""

    errno = Errno.ENOENT


class SessionUnavailable(AgentixError):
    """EIO from a call about a session: the disk cannot be read, what is there is damaged, or its model cannot be
    loaded."""

    errno = Errno.EIO


class KernelGone(AgentixError):
    """The kernel has died, or closed the connection without a reason; every call in flight ends with this."""

    errno = Errno.EPIPE


class NoKernel(AgentixError):
    """No kernel of that name is running."""

    errno = Errno.ESRCH


_NAMES_GROUP = ("group.", "task.create", "proc.spawn")  # methods whose ENOENT is a group's


def error_of(
    number: int, text: str, method: str = "", retry_after_ms: int | None = None
) -> AgentixError:
    """Return the exception for an error reply to a method; of an unknown number, a plain AgentixError."""
    if number == Errno.ENOENT and method.startswith("llm."):
        return NoSuchModel(text)
    if number == Errno.ENOENT and method.startswith(_NAMES_GROUP):
        return NoSuchGroup(text)
    if number == Errno.EIO and method.startswith("ctx."):
        return SessionUnavailable(text)
    if number == Errno.EAGAIN:
        return TryAgain(text, retry_after_ms / 1000 if isinstance(retry_after_ms, int) else None)
    return BY_ERRNO.get(number, AgentixError)(text)
