"""Random programs over everything public, against a model that knows every live byte."""

import contextlib
import os
import random
from typing import ClassVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pktalloc import Allocator, Packet

STEPS = int(os.environ.get("PKTALLOC_MODEL_STEPS", "10000"))
"""Steps of all machines together; `PKTALLOC_MODEL_STEPS=200000` for a long run."""

STEPS_PER_PROGRAM = 50

SIZES = st.one_of(
    st.integers(0, 200),
    st.sampled_from([0, 63, 64, 65, 1000, 1400, 1500, 2047, 2048, 4096, 4097]),
    st.integers(1, 20_000),
    st.integers(30_000, 70_000),
)


class Held:
    """A packet, the bytes that it must contain, and the exports that are alive."""

    def __init__(self, packet: Packet, content: bytearray) -> None:
        self.packet = packet
        self.content = content
        self.exports: list[memoryview] = []

    @property
    def free_to_move(self) -> bool:
        return not self.exports


class Programs(RuleBasedStateMachine):
    """One allocator, used at random."""

    settings_of_allocator: ClassVar[dict[str, int]] = {}
    packets = Bundle("packets")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator()
        self.held: list[Held] = []
        self.fill = random.Random(0)

    @initialize()
    def open(self) -> None:
        self.allocator = Allocator(**self.settings_of_allocator)  # type: ignore[arg-type]

    def hold(self, packet: Packet, size: int) -> Held:
        assert len(packet) == size
        assert packet.address % self.alignment == 0
        if self.settings_of_allocator.get("zero"):
            assert packet == bytes(size)
        held = Held(packet, bytearray(self.fill.randbytes(size)))
        packet[:] = held.content
        self.held.append(held)
        return held

    def forget(self, held: Held) -> None:
        self.held.remove(held)

    @property
    def alignment(self) -> int:
        return self.settings_of_allocator.get("alignment", 64)

    @rule(target=packets, size=SIZES)
    def allocate(self, size: int) -> Held:
        return self.hold(self.allocator.allocate(size), size)

    @rule(target=packets, size=SIZES, headroom=st.integers(0, 300))
    def allocate_behind_headroom(self, size: int, headroom: int) -> Held:
        packet = self.allocator.allocate(size, headroom)
        assert headroom <= packet.headroom < headroom + self.alignment
        return self.hold(packet, size)

    @rule(held=packets, size=st.integers(0, 300))
    def prepend(self, held: Held, size: int) -> None:
        data = self.fill.randbytes(size)
        headroom = held.packet.headroom
        error = BufferError if not held.free_to_move else ValueError
        refused = not held.free_to_move or size > headroom
        with pytest.raises(error) if refused else contextlib.nullcontext():
            held.packet.prepend(data)
        if not refused:
            assert held.packet.headroom == headroom - size
            held.content[:0] = data

    @rule(held=packets, size=st.integers(0, 300))
    def advance(self, held: Held, size: int) -> None:
        headroom = held.packet.headroom
        error = BufferError if not held.free_to_move else ValueError
        refused = not held.free_to_move or size > len(held.content)
        with pytest.raises(error) if refused else contextlib.nullcontext():
            held.packet.advance(size)
        if not refused:
            assert held.packet.headroom == headroom + size
            del held.content[:size]

    @rule(held=packets, size=SIZES)
    def append(self, held: Held, size: int) -> None:
        data = self.fill.randbytes(size)
        headroom, fits = held.packet.headroom, size <= held.packet.tailroom
        address = held.packet.address
        with contextlib.nullcontext() if held.free_to_move else pytest.raises(BufferError):
            held.packet.append(data)
        if held.free_to_move:
            held.content += data
            assert held.packet.headroom == headroom
            assert held.packet.address == address or not fits

    @rule(held=packets)
    def copy(self, held: Held) -> None:
        copy = held.packet.copy()
        assert copy.headroom == held.packet.headroom
        assert copy == held.content
        if len(self.held) < 300:
            other = Held(copy, bytearray(held.content))
            self.held.append(other)

    @rule(held=consumes(packets), size=st.integers(1, 3000))
    def split(self, held: Held, size: int) -> None:
        for view in held.exports:
            view.release()
        held.exports.clear()
        size = max(size, len(held.content) // 50 + 1)
        parts = held.packet.split(size)
        assert held.packet.released
        self.forget(held)
        starts = range(0, len(held.content), size)
        for part, start in zip(parts, starts, strict=True):
            self.held.append(Held(part, held.content[start : start + size]))

    @rule(size=st.integers(0, 3000), count=st.integers(0, 100))
    def allocate_many(self, size: int, count: int) -> None:
        packets = self.allocator.allocate_many(size, count)
        assert len(packets) == count
        for packet in packets:
            self.hold(packet, size)

    @rule(size=st.one_of(st.integers(-3, -1), st.just(1 << 60)))
    def allocate_in_vain(self, size: int) -> None:
        with pytest.raises((ValueError, MemoryError)):
            self.allocator.allocate(size)

    @rule(held=packets, data=st.data())
    def write(self, held: Held, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(held.content)))
        length = data.draw(st.integers(0, min(100, len(held.content) - start)))
        content = self.fill.randbytes(length)
        held.packet[start : start + length] = content
        held.content[start : start + length] = content

    @rule(held=packets, data=st.data())
    def copy_within(self, held: Held, data: st.DataObject) -> None:
        size = len(held.content)
        length = data.draw(st.integers(0, size))
        source, target = data.draw(st.integers(0, size - length)), data.draw(st.integers(0, size - length))
        held.packet[target : target + length] = held.packet[source : source + length]
        held.content[target : target + length] = bytes(held.content[source : source + length])

    @rule(held=packets, index=st.integers(-5000, 5000), value=st.integers(0, 255))
    def set_one(self, held: Held, index: int, value: int) -> None:
        if -len(held.content) <= index < len(held.content):
            held.packet[index] = value
            held.content[index] = value
            assert held.packet[index] == value
        else:
            with pytest.raises(IndexError):
                held.packet[index] = value

    @rule(held=packets, size=SIZES, copy=st.booleans(), by_allocator=st.booleans())
    def resize(self, held: Held, size: int, *, copy: bool, by_allocator: bool) -> None:
        with contextlib.nullcontext() if held.free_to_move else pytest.raises(BufferError):
            if by_allocator:
                self.allocator.reallocate(held.packet, size, copy=copy)
            else:
                held.packet.resize(size, copy)
        if not held.free_to_move:
            return
        assert len(held.packet) == size
        kept = min(size, len(held.content)) if copy else 0
        assert held.packet[:kept] == held.content[:kept]
        if self.settings_of_allocator.get("zero"):
            assert held.packet[kept:] == bytes(size - kept)
        held.content = held.content[:kept] + self.fill.randbytes(size - kept)
        held.packet[kept:] = held.content[kept:]

    @rule(held=packets, size=SIZES, by_allocator=st.booleans())
    def shrink(self, held: Held, size: int, *, by_allocator: bool) -> None:
        refused = not held.free_to_move or size > len(held.content)
        error = BufferError if not held.free_to_move else ValueError
        with pytest.raises(error) if refused else contextlib.nullcontext():
            if by_allocator:
                self.allocator.shrink(held.packet, size)
            else:
                held.packet.shrink(size)
        if not refused:
            del held.content[size:]

    @rule(held=packets)
    def export(self, held: Held) -> None:
        held.exports.append(held.packet[len(held.content) // 3 :])

    @rule(held=packets)
    def end_an_export(self, held: Held) -> None:
        if held.exports:
            held.exports.pop().release()

    @rule(held=consumes(packets), way=st.sampled_from(["free", "release", "with", "drop"]))
    def let_go(self, held: Held, way: str) -> None:
        if way not in ("drop", "with") and not held.free_to_move:
            with pytest.raises(BufferError, match=f"{len(held.exports)} buffer export"):
                held.packet.release()
            for view in held.exports:
                view.release()
        match way:
            case "free":
                self.allocator.free(held.packet)
            case "release":
                held.packet.release()
                held.packet.release()
            case "with":
                with held.packet:
                    pass
                # The memory stays until the last export goes.
                assert all(view == held.content[len(held.content) - view.nbytes :] for view in held.exports)
        if way != "drop":
            assert held.packet.released
            with pytest.raises(ValueError, match="released"):
                len(held.packet)
        held.exports.clear()
        self.forget(held)
        del held.packet

    @rule(part=st.integers(1, 4))
    def let_many_go(self, part: int) -> None:
        """Let the packets of `allocate_many` go; the others are in the bundle and stay."""
        for held in [held for held in self.held if held.free_to_move][:: part + 1]:
            held.packet.resize(min(1, len(held.content)))
            del held.content[1:]

    @rule()
    def trim(self) -> None:
        before = self.allocator.allocated_bytes
        assert self.allocator.trim() == before - self.allocator.allocated_bytes

    @rule()
    def close_in_vain(self) -> None:
        exports = sum(len(held.exports) for held in self.held)
        if exports:
            with pytest.raises(BufferError, match=f"{exports} buffer export"):
                self.allocator.close()

    @rule(held=packets)
    def foreign(self, held: Held) -> None:
        with Allocator() as other, pytest.raises(ValueError, match="another allocator"):
            other.free(held.packet)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        self.allocator.integrity_check()
        alignment = self.alignment
        least = sum(-(-max(len(held.content), 1) // alignment) * alignment for held in self.held)
        assert self.allocator.used_bytes >= least
        if not self.settings_of_allocator.get("check") and not any(len(held.content) > 4000 for held in self.held):
            assert self.allocator.stats().live_packets == len(self.held)
        for held in self.held:
            assert held.packet == held.content

    def teardown(self) -> None:
        for held in self.held:
            held.exports.clear()
        self.held.clear()


CONFIGURATIONS: dict[str, dict[str, int]] = {
    "default": {},
    "small": {"alignment": 16, "window_bytes": 4096, "preallocated_windows": 0, "keep_empty_windows": 0},
    "coarse": {"alignment": 4096, "window_bytes": 1 << 19},
    "zero": {"zero": True, "window_bytes": 1 << 15},
    "check": {"check": True, "alignment": 32, "window_bytes": 1 << 14},
    "check and zero": {"check": True, "zero": True, "window_bytes": 1 << 13, "keep_empty_windows": 1},
    "huge pages": {"huge_pages": True},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_random_programs(configuration: str) -> None:
    machine = type(f"Programs[{configuration}]", (Programs,), {"settings_of_allocator": CONFIGURATIONS[configuration]})
    programs = max(1, STEPS // STEPS_PER_PROGRAM // len(CONFIGURATIONS))
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=programs,
            stateful_step_count=STEPS_PER_PROGRAM,
            deadline=None,
            suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
        ),
    )
