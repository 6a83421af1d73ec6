"""The error numbers of the wire: POSIX's names, and its numbers as Linux has them.

Who uses it: the kernel raises KernelError and the dispatcher turns it into a reply; the SDK raises one
exception class per number. What must hold: a message names the object and the wrong value.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class Errno(IntEnum):
    EPERM = errno.EPERM  # the caller lacks the right
    ENOENT = errno.ENOENT  # no such segment or model
    ESRCH = errno.ESRCH  # no such task
    EINTR = errno.EINTR  # cancelled by the caller
    EIO = errno.EIO  # the model failed on this request, or cannot be loaded, or a disk failed
    ECHILD = errno.ECHILD  # nothing to wait for
    EAGAIN = errno.EAGAIN  # a limit is reached for now
    ENOMEM = errno.ENOMEM  # no memory for the segment or the context
    EBUSY = errno.EBUSY  # the group is not empty
    EEXIST = errno.EEXIST  # the name is taken
    EINVAL = errno.EINVAL  # a field is missing, unknown, or has a wrong value
    EFBIG = errno.EFBIG  # prompt longer than the window
    EPIPE = errno.EPIPE  # the other end is gone
    ENOSYS = errno.ENOSYS  # no such method
    EBADMSG = errno.EBADMSG  # not a frame of this protocol
    EMSGSIZE = errno.EMSGSIZE  # a frame is longer than the limit
    EPROTO = errno.EPROTO  # another protocol version, or a call before sys.hello
    EDQUOT = errno.EDQUOT  # a quota is used up
    ETIMEDOUT = errno.ETIMEDOUT  # the deadline passed
    ESHUTDOWN = errno.ESHUTDOWN  # the kernel is going down


class KernelError(Exception):
    """A call that ends in an error reply."""

    def __init__(self, number: Errno, text: str, retry_after_ms: int | None = None) -> None:
        super().__init__(text)
        self.number = number
        self.text = text
        self.retry_after_ms = retry_after_ms  # of EAGAIN, where it can be told
