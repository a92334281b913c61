# Runs inside gdb: lets the program run, and at each sampling signal, before it arrives, notes the stack as gdb sees it.
import json
import os

import gdb

gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute("set backtrace past-main on")
gdb.execute("handle all nostop noprint pass")
gdb.execute("handle SIGURG stop print pass")

stacks = []
stopped_by = [None]


def on_stop(event):
    stopped_by[0] = getattr(event, "stop_signal", None)


gdb.events.stop.connect(on_stop)


def stack():
    """[name, module, address to look its code up by, whether it is not on the stack (inlined, a tail call)], leaf first."""
    frame, found, exact = gdb.newest_frame(), [], True
    while frame is not None:
        module = gdb.solib_name(frame.pc()) or gdb.current_progspace().filename
        absent = frame.type() in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME)
        found.append([frame.name(), module, frame.pc() - (not exact), absent])
        if not absent:
            exact = frame.type() == gdb.SIGTRAMP_FRAME
        frame = frame.older()
    return found


gdb.execute("run", to_string=True)
while gdb.selected_inferior().pid:
    if stopped_by[0] == "SIGURG":
        thread = gdb.selected_thread()
        stacks.append([thread.ptid[1], stack()])
        if len(stacks) == 1:
            with open(f"/proc/{gdb.selected_inferior().pid}/maps") as maps:
                modules = maps.read()
    stopped_by[0] = None
    gdb.execute("continue", to_string=True)
with open(os.environ["STACKS"], "w") as out:
    json.dump({"stacks": stacks, "maps": modules}, out)
