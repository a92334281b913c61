"""The data classes: fields, equality, what is worked out from them. No sampling here."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import timedelta
from pathlib import Path

import pytest
import spprof
from spprof import AggregatedStack, Frame, Profile, Sample, StackTrace


def names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def test_fields_in_the_contract_s_order() -> None:
    """What programs pass by position; our own additions come after it and have defaults."""
    assert names(Frame)[:4] == ["function_name", "filename", "lineno", "is_native"]
    assert names(Sample)[:4] == ["timestamp_ns", "thread_id", "thread_name", "frames"]
    assert names(Profile)[:7] == [
        "start_time", "end_time", "interval_ms", "samples", "dropped_count", "python_version", "platform",
    ]  # fmt: skip
    assert names(StackTrace) == ["frames", "thread_id", "thread_name"]
    assert names(AggregatedStack)[:4] == ["frames", "thread_id", "thread_name", "count"]
    assert names(spprof.AggregatedProfile) == [
        "start_time", "end_time", "interval_ms", "stacks", "total_samples", "dropped_count", "python_version", "platform",
    ]  # fmt: skip
    assert names(spprof.NativeFrame) == ["ip", "symbol", "filename", "offset", "resolved"]
    assert names(spprof.ProfilerStats)[:4] == [
        "collected_samples", "dropped_samples", "duration_ms", "overhead_estimate_pct",
    ]  # fmt: skip
    spprof.ProfilerStats(1, 0, 2.5, 0.1)


def test_the_parts_are_frozen_and_hashable() -> None:
    """Frames, samples and stacks do not change; a stack's hash leaves the thread's name out."""
    frame = Frame("f", "f.py", 3)
    assert frame == Frame("f", "f.py", 3, is_native=False) != Frame("f", "f.py", 3, is_native=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.lineno = 4  # type: ignore[misc]
    assert hash(Sample(1, 2, None, (frame,))) == hash(Sample(1, 2, None, (frame,)))
    assert hash(StackTrace((frame,), 7, "a")) == hash(StackTrace((frame,), 7, "b"))
    assert StackTrace((frame,), 7, "a") != StackTrace((frame,), 7, "b")


def test_figures(by_hand: Profile) -> None:
    """Count, duration and rate come from the fields."""
    assert by_hand.sample_count == 4
    assert by_hand.total_duration_ms == 2000.0
    assert by_hand.effective_rate_hz == 2.0
    by_hand.end_time = by_hand.start_time
    assert by_hand.effective_rate_hz == 0.0
    by_hand.end_time -= timedelta(seconds=1)
    assert by_hand.effective_rate_hz == 0.0


def test_a_profile_is_a_mutable_dataclass(by_hand: Profile) -> None:
    """Equality is by the fields, and replace() and assignment work."""
    twin = dataclasses.replace(by_hand)
    assert twin == by_hand
    twin.dropped_count += 1
    assert twin != by_hand


def test_aggregate(by_hand: Profile) -> None:
    """Equal stacks of a thread become one, with their count; the totals stay."""
    aggregated = by_hand.aggregate()
    main, work, sort = by_hand.samples[0].frames[::-1]
    (native, *_) = by_hand.samples[2].frames
    assert aggregated.stacks == [
        AggregatedStack((sort, work, main), 100, "MainThread", 2),
        AggregatedStack((native, work, main), 200, None, 1),
        AggregatedStack((work, main), 100, "MainThread", 1),
    ]
    assert [stack.weight_ns for stack in aggregated.stacks] == [20_000_000, 10_000_000, 10_000_000]
    assert (aggregated.total_samples, aggregated.unique_stack_count) == (4, 3)
    assert aggregated.compression_ratio == 4 / 3
    assert aggregated.memory_reduction_pct == 25.0
    assert (aggregated.start_time, aggregated.dropped_count) == (by_hand.start_time, 3)


def test_an_empty_aggregate(by_hand: Profile) -> None:
    """Nothing divides by zero."""
    by_hand.samples = []
    aggregated = by_hand.aggregate()
    assert (aggregated.compression_ratio, aggregated.memory_reduction_pct) == (1.0, 0.0)
    assert aggregated.stacks == []
    assert aggregated.to_collapsed() == ""


def reopened(profile: Profile, tmp_path: Path) -> Profile:
    profile.save(tmp_path / "profile.spprof")
    return spprof.load(tmp_path / "profile.spprof")


def test_everything_comes_back(by_hand: Profile, tmp_path: Path) -> None:
    """Saved losslessly and loaded, a profile equals itself."""
    again = reopened(by_hand, tmp_path)
    assert again == by_hand
    assert [sample.weight_ns for sample in again.samples] == [10_000_000] * 4
    assert by_hand == again


@pytest.mark.parametrize("name", ["a;b", 'quo"te', "new\nline", "emoji 🐍", "lone \ud800 surrogate", "", "nul\0"])
def test_any_name_comes_back(by_hand: Profile, tmp_path: Path, name: str) -> None:
    """Names, files and thread names may hold any text."""
    by_hand.samples = [Sample(5, 1, name, (Frame(name, name, 1),))]
    assert reopened(by_hand, tmp_path) == by_hand


def test_samples_keep_count_and_weight(by_hand: Profile, tmp_path: Path) -> None:
    """Merged samples stay merged, and count for as many as they are."""
    by_hand.samples = [Sample(5, 1, "t", (Frame("f", "f.py", 1),), weight_ns=70, count=3)]
    again = reopened(by_hand, tmp_path)
    assert again.sample_count == by_hand.sample_count == 3
    assert (again.samples[0].weight_ns, again.samples[0].count) == (70, 3)


class TestSamples:
    """The lazy view behaves as a list."""

    @pytest.fixture
    def plain(self, by_hand: Profile) -> list[Sample]:
        return list(by_hand.samples)

    @pytest.fixture
    def lazy(self, by_hand: Profile, tmp_path: Path) -> Profile:
        return reopened(by_hand, tmp_path)

    def test_reading(self, lazy: Profile, plain: list[Sample]) -> None:
        samples = lazy.samples
        assert len(samples) == 4
        assert samples == plain and plain == samples
        assert samples != plain[:3] and samples != [*plain[:3], plain[0]]
        assert samples[0] == plain[0] and samples[-1] == plain[-1]
        assert samples[1:3] == plain[1:3] and samples[::-1] == plain[::-1]
        assert plain[2] in samples and Sample(0, 0, None, ()) not in samples
        assert samples.index(plain[3]) == 3 and samples.count(plain[0]) == 1
        assert list(reversed(samples)) == plain[::-1]
        assert samples + [plain[0]] == [*plain, plain[0]] and [plain[0]] + samples == [plain[0], *plain]  # noqa: RUF005
        assert sorted(samples, key=lambda s: -s.timestamp_ns) == plain[::-1]
        for index in (4, -5):
            with pytest.raises(IndexError):
                samples[index]

    def test_stacks_are_shared(self, lazy: Profile) -> None:
        """Samples of one stack have one tuple of frames."""
        assert lazy.samples[0].frames is lazy.samples[1].frames
        assert lazy.samples[0].frames[1] is lazy.samples[3].frames[0]

    def test_writing(self, lazy: Profile, plain: list[Sample], tmp_path: Path) -> None:
        """The first write makes a list, and from then on it is what is saved."""
        for samples in (lazy.samples, plain):
            samples.append(samples[0])
            del samples[1]
            samples[1] = samples[0]
            samples.sort(key=lambda s: s.timestamp_ns, reverse=True)
            samples.insert(0, samples.pop())
        assert lazy.samples == plain
        again = reopened(lazy, tmp_path)
        assert sorted(again.samples, key=repr) == sorted(plain, key=repr)

    def test_replacing(self, lazy: Profile, tmp_path: Path) -> None:
        """A plain list in their place is what is saved."""
        lazy.samples = [s for s in lazy.samples if any("lib" in f.filename for f in s.frames)]
        assert lazy.to_collapsed() == "<module> (/app/main.py:40);work (/app/main.py:12);sort (/app/lib.py:7) 2"
        assert reopened(lazy, tmp_path).sample_count == 2

    def test_pickle_and_copy(self, lazy: Profile) -> None:
        """Profiles go between processes."""
        for twin in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy), copy.copy(lazy)):
            assert twin == lazy
            assert twin.metadata == lazy.metadata
        lazy.samples.pop()
        assert pickle.loads(pickle.dumps(lazy)) == lazy

    def test_asdict(self, lazy: Profile, by_hand: Profile) -> None:
        """The dataclass tools see through them."""
        assert dataclasses.asdict(lazy)["python_version"] == "3.12.1"
        assert dataclasses.replace(lazy, dropped_count=3) == by_hand
