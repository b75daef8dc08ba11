"""Timing on a GPU: interleaved candidates, and what the machine can do at most.

Two times are taken of every call, both in seconds. The device's: between two events around a group of calls that
wait in the device's queue, so that no gap between launches counts. The latency: on the host's clock, from a call
until its result is there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

GROUP_CALLS = 10
GROUP_SECONDS = 0.02  # longer groups have fewer calls
WAIT_SECONDS = 0.05  # the longest that the device is kept busy while calls queue up
ROUNDS, LEAST_ROUNDS = 30, 5
SETS = 1024  # of inputs, at most
COPY_BYTES = 1 << 30
GEMM_SIZE = 8192


class Times(NamedTuple):
    """Medians over rounds, in seconds a call."""

    device: float
    latency: float


class Clock:
    """Times calls on one device; on a CPU, where only the plumbing is tested, both times are the host's."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.is_cuda = device == "cuda"
        self._hertz = self._sleep_rate() if self.is_cuda else 0.0
        self._least_rounds = LEAST_ROUNDS if self.is_cuda else 1

    def _sleep_rate(self) -> float:
        """Cycles a second of the device's sleep."""
        cycles = 20_000_000
        torch.cuda._sleep(cycles)
        return cycles / self._between_events(lambda: torch.cuda._sleep(cycles))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def _between_events(self, work: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def group_seconds(self, work: Callable[[], Any], wait: float) -> float:
        """The device's seconds for work that was queued up while the device slept for ``wait`` seconds."""
        self.synchronize()
        if not self.is_cuda:
            return self.latency_seconds(work)
        torch.cuda._sleep(int(wait * self._hertz))
        return self._between_events(work)

    def latency_seconds(self, work: Callable[[], Any]) -> float:
        """The host's seconds until work is done."""
        self.synchronize()
        begin = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - begin

    def host_seconds(self, work: Callable[[], Any]) -> float:
        """The host's seconds until work is queued."""
        self.synchronize()
        begin = time.perf_counter()
        work()
        found = time.perf_counter() - begin
        self.synchronize()
        return found

    def sets(self, bytes_per_set: int) -> int:
        """How many sets of inputs, one after the other, are twice what the L2 cache holds."""
        if not self.is_cuda:
            return 2
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return min(SETS, max(2, -(-2 * cache // bytes_per_set) + 1))

    def interleaved(
        self, calls: dict[str, Callable[[Any], Any]], sets: Sequence[Any], seconds: float
    ) -> dict[str, Times]:
        """Median times of calls on sets of inputs in turn; every round times all calls, in another order.

        Args:
            calls: what is timed, by name.
            sets: inputs, each used once before the first is used again.
            seconds: about how long to measure, of device time.
        """
        plans = {name: self._plan(call, sets) for name, call in calls.items()}
        total = sum(plan.group for plan in plans.values())
        rounds = max(self._least_rounds, min(ROUNDS, int(seconds / max(total, 1e-9))))
        device: dict[str, list[float]] = {name: [] for name in calls}
        latency: dict[str, list[float]] = {name: [] for name in calls}
        names, position = list(calls), 0
        for turn in range(rounds):
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                call, plan = calls[name], plans[name]

                def group(call: Any = call, count: int = plan.count, first: int = position) -> None:
                    for n in range(count):
                        call(sets[(first + n) % len(sets)])

                device[name].append(self.group_seconds(group, plan.wait) / plan.count)
                position += plan.count
                inputs = sets[position % len(sets)]
                latency[name].append(self.latency_seconds(lambda call=call, inputs=inputs: call(inputs)))
                position += 1
        return {name: Times(statistics.median(device[name]), statistics.median(latency[name])) for name in calls}

    def _plan(self, call: Callable[[Any], Any], sets: Sequence[Any]) -> Plan:
        """How a call is timed, from a few calls that warm it up."""
        if not self.is_cuda:
            return Plan(1, 0.0, self.latency_seconds(lambda: call(sets[0])))
        for n in range(4):
            call(sets[n % len(sets)])
        seconds = min(self.latency_seconds(lambda n=n: call(sets[n % len(sets)])) for n in range(3))
        host = statistics.median(self.host_seconds(lambda n=n: call(sets[n % len(sets)])) for n in range(5))
        count = max(1, min(GROUP_CALLS, int(GROUP_SECONDS / max(seconds, 1e-9))))
        return Plan(count, min(WAIT_SECONDS, 1.5 * count * host + 1e-4), count * seconds)


class Plan(NamedTuple):
    """The calls of a group, the seconds the device sleeps before it, and the seconds it takes."""

    count: int
    wait: float
    group: float


class Peak(NamedTuple):
    """What the machine does at most: bytes a second of a copy, operations a second of a matrix product by dtype."""

    bytes: float
    operations: dict[torch.dtype, float]

    def seconds(self, case: Any) -> float:
        """The least time of a case: that of its traffic, or that of its operations, whichever is longer."""
        return max(case.bytes / self.bytes, case.operations / self.operations[case.dtype])


def measured_peak(clock: Clock, dtypes: Sequence[torch.dtype]) -> Peak:
    """The rates of one large copy, and of one large matrix product in each dtype, as medians."""
    small = not clock.is_cuda
    size = 64 if small else GEMM_SIZE
    source = torch.ones((1 << 16) if small else COPY_BYTES, dtype=torch.int8, device=clock.device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / _median_seconds(clock, lambda: target.copy_(source))
    rates = {}
    for dtype in dtypes:
        a, b = (torch.randn(size, size, device=clock.device, dtype=dtype) for _ in range(2))
        rates[dtype] = 2 * size**3 / _median_seconds(clock, lambda a=a, b=b: a @ b)
    return Peak(copy, rates)


def _median_seconds(clock: Clock, work: Callable[[], Any]) -> float:
    for _ in range(3):
        work()
    return statistics.median(clock.group_seconds(work, 1e-3) for _ in range(15))
