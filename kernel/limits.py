"""Every limit of the kernel in one place, with its unit and what happens beyond it."""

MAX_TASKS = 4096  # live tasks; proc.spawn answers EAGAIN
MAX_HELD_TASKS = 1024  # live tasks without a process of one holder; task.create answers EAGAIN
MAX_CALLS = 256  # unanswered calls of one task, or of an operator's connection; EAGAIN
MAX_TASK_CALL_BYTES = 8 << 20  # messages of the unanswered calls of one task; EAGAIN
MAX_REQUESTS = 64  # llm.generate in flight of one task; EAGAIN
MAX_PENDING_REQUESTS = 16384  # llm.generate in flight of all tasks; EAGAIN
MAX_GROUPS = 1024  # scheduling groups; group.create answers EAGAIN
MAX_MAILS = 64  # waiting messages in one mailbox; ipc.send waits
MAX_SENT_BYTES = 1 << 20  # messages of one task that nobody has received; ipc.send waits
MAX_TASK_MEMORY_BYTES = 256 << 20  # segments of one task; ENOMEM
MAX_TASK_SEGMENTS = 256  # segments of one task; ENOMEM
MAX_ORPHAN_ZOMBIES = 1024  # ended tasks without a parent that are kept for `wait`; the oldest is reaped
MAX_CORE_DEATHS = 3  # that one request may be present at; EIO
SUSPECT_CORE_DEATHS = 2  # from here on a request shares no step with others
MAX_FAILED_STARTS = 3  # of an LLM core in a row; its model is given up
MAX_KEPT_CONTEXTS = 64  # of requests that ended, of one task; the least lately used is forgotten
MAX_KEPT_TOKENS = 262144  # of all these, of one task; the same
MAX_SESSIONS = 1024  # open sessions of one task; ctx.open answers EAGAIN
MAX_LISTED_SESSIONS = 2048  # in one answer of ctx.list; the rest is asked for
MAX_SESSION_BYTES = 16 << 20  # messages of all sessions of one task; ENOMEM
MAX_SESSION_CONTEXTS = 2  # of one session, after turns that were cancelled; the least lately used is forgotten
MAX_PIECES = 2048  # tokens that one llm.detokenize tells the pieces of; EINVAL
EMBED_BATCH_TEXTS = 16  # texts that a core embeds for one call before it looks at others; the rest waits
EMBED_BATCH_TOKENS = 8192  # tokens of these, but for one text alone; the same
TAIL_LINES = 12  # of a dead task's output, shown to whoever waits for it
SHUTDOWN_GRACE_NS = 1_000_000_000  # between TERM and KILL when the kernel goes down

# Of connections. Frames and messages are limited in kernel/abi/codec.py and kernel/abi/shape.py.
MAX_CONNECTIONS = 16384  # connections at once, as far as descriptors allow; refused with EAGAIN
MAX_PROCESS_CONNECTIONS = 8  # connections of one process, side channels included; refused with EAGAIN
MAX_PROCESS_RINGS = 2  # payload rings of one process; EAGAIN on the side channel
CONNECT_BURST = 64  # connects of one process at once; refused with EAGAIN
CONNECTS_PER_S = 200  # connects of one process a second in the long run; the same
HANDSHAKE_NS = 1_000_000_000  # the time from connecting to the end of the handshake; closed with ETIMEDOUT
LAST_WORDS_NS = 1_000_000_000  # for a peer to take the reason why it is closed
MAX_BAD_BURST = 64  # messages without a call id that come without a pause; closed with EBADMSG
UNREAD_SOFT_BYTES = 256 << 10  # answers that a peer has not read; no more is read from it meanwhile
UNREAD_HARD_BYTES = 1 << 20  # the same, in the end; it is closed with EPIPE, and its task killed
MAX_LAST_CALLS = 32  # of a peer that has left, served of what it had sent; dropped
TURN_NS = 250_000  # for messages, before those who waited are looked for; the rest comes in the next turn
DOOR_PAUSE_NS = 50_000_000  # for an agent's own socket when it connects too often; it waits in the backlog
PUBLIC_PAUSE_NS = 5_000_000  # the same for a socket that all share, now and then while one process does so
HEAVY_NS = 500_000  # a message that takes longer makes its process wait ...
HEAVY_PAUSE = 3  # ... so many times as long before the next one is looked at,
REFUSED_PAUSE = 100  # or, when it was no valid call, so many times
