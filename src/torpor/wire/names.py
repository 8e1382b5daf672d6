"""The names of all messages: what stands under "t". Who says what, and with which fields, is in
`torpor.wire.messages`."""

from __future__ import annotations

from typing import Final

# The guest's.
HELLO: Final = "hello"
IMPORTING: Final = "importing"
IMPORTED: Final = "imported"
LOADED: Final = "loaded"
LOAD_FAILED: Final = "load_failed"
BEGIN: Final = "begin"
BATCH: Final = "batch"
PART: Final = "part"
END: Final = "end"
FETCH: Final = "fetch"
REPLAYED: Final = "replayed"
NOTE: Final = "note"
STATUS: Final = "status"
PREPARED: Final = "prepared"
UNPREPARED: Final = "unprepared"
THAWED: Final = "thawed"
RESUMED: Final = "resumed"
DONE: Final = "done"
FAILED: Final = "failed"
EXITED: Final = "exited"
CRASHED: Final = "crashed"
CERTIFICATE: Final = "certificate"
EXEC_OUTPUT: Final = "exec.output"
EXEC_TAKEN: Final = "exec.taken"
EXEC_EXITED: Final = "exec.exited"

# The host's.
FILE: Final = "file"
IMPORT: Final = "import"
LOAD: Final = "load"
START: Final = "start"
THAW: Final = "thaw"
JOURNAL: Final = "journal"
CLOCK: Final = "clock"
PREPARE: Final = "prepare"
RESUME: Final = "resume"
RESULT: Final = "result"
RECORDED: Final = "recorded"
PIECE: Final = "piece"
CANCEL: Final = "cancel"
CERTIFIED: Final = "certified"
EXEC: Final = "exec"
EXEC_STDIN: Final = "exec.stdin"
EXEC_WINDOW: Final = "exec.window"
EXEC_SIZE: Final = "exec.size"
EXEC_SIGNAL: Final = "exec.signal"
EXEC_KILL: Final = "exec.kill"

# The supervisor's, to the agent's process.
REHEARSE: Final = "rehearse"
