"""Every limit of the kernel in one place, with its unit and what happens beyond it."""

MAX_TASKS = 4096  # live tasks; proc.spawn answers EAGAIN
MAX_CALLS = 256  # unanswered calls of one connection; EAGAIN
MAX_REQUESTS = 64  # llm.generate in flight of one task; EAGAIN
MAX_PENDING_REQUESTS = 16384  # llm.generate in flight of all tasks; EAGAIN
MAX_MAILS = 64  # waiting messages in one mailbox; ipc.send waits
MAX_TASK_MEMORY_BYTES = 256 << 20  # segments of one task; ENOMEM
MAX_TASK_SEGMENTS = 256  # segments of one task; ENOMEM
MAX_ORPHAN_ZOMBIES = 1024  # ended tasks without a parent that are kept for `wait`; the oldest is reaped
MAX_CORE_DEATHS = 3  # that one request may be present at; EIO
SUSPECT_CORE_DEATHS = 2  # from here on a request shares no step with others
MAX_FAILED_STARTS = 3  # of the LLM core in a row; the kernel gives up
TAIL_LINES = 12  # of a dead task's output, shown to whoever waits for it
SHUTDOWN_GRACE_NS = 1_000_000_000  # between TERM and KILL when the kernel goes down
