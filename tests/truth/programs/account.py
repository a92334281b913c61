"""What a program under test knows of itself by its own clocks, to be laid beside what its profile says."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from typing import Any, Callable


class Book:
    """One thread's CPU time by function, measured around each call."""

    def __init__(self) -> None:
        self.thread = threading.current_thread().name
        self.spent_ns: dict[str, int] = defaultdict(int)
        self._opened_ns = time.thread_time_ns()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        begin = time.thread_time_ns()
        function(*arguments)
        self.spent_ns[function.__name__] += time.thread_time_ns() - begin

    def total_ns(self) -> int:
        return time.thread_time_ns() - self._opened_ns

    def close(self) -> dict[str, int]:
        """By thread and function; what was spent between the calls is the thread's "other"."""
        spent = {f"{self.thread}:{name}": ns for name, ns in self.spent_ns.items()}
        spent[f"{self.thread}:other"] = self.total_ns() - sum(self.spent_ns.values())
        return spent


def in_threads(bodies: dict[str, Callable[[Book], None]]) -> dict[str, int]:
    """Runs each body on a thread of that name; the books of all."""
    books: list[dict[str, int]] = []

    def keep_book(body: Callable[[Book], None]) -> None:
        book = Book()
        body(book)
        books.append(book.close())

    threads = [threading.Thread(target=keep_book, args=(body,), name=name) for name, body in bodies.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {key: ns for book in books for key, ns in book.items()}


def seen(profile: Any, truth: dict[str, int]) -> dict[str, Any]:
    """The profile's weights under the truth's keys: the innermost function that has a key claims the sample."""
    weights: dict[str, int] = dict.fromkeys(truth, 0)
    threads = {key.partition(":")[0] for key in truth}
    squares = 0
    for sample in profile.samples:
        if sample.thread_name not in threads:
            continue
        keys = (f"{sample.thread_name}:{frame.function_name}" for frame in sample.frames)
        key = next((key for key in keys if key in weights), f"{sample.thread_name}:other")
        weights[key] += sample.weight_ns
        squares += sample.weight_ns**2
    return {"weights": weights, "squares": squares}


def report(**facts: Any) -> None:
    print(json.dumps(facts))
