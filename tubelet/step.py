"""Step: one chunk of a stream as a function of what the stream keeps, for a graph.

A graph has fixed shapes, and the layers of a stream fill up before they answer. So a step begins as if frames had come
before the first one, and each layer takes what it is given of them for the padding that a video has there. The first
answers, `lead` of them, are of that time and to be dropped; all others are the stream's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .copies import shared_copy
from .twins import Delaying, Dilated, State, Waiting, restart, twins_of

_MOST = 4096  # frames within which chunks must come to be alike


class Line(NamedTuple):
    """A number that grows by as much with each chunk."""

    start: int
    rate: int

    def at(self, number: Tensor) -> Any:
        """What it is before this chunk."""
        return self.start + self.rate * number if self.rate else self.start


class Step(nn.Module):
    """The step of a stream for chunks of one size, which keeps nothing itself.

    Args:
        stream: its weights are shared; it is not changed.
        shape: (B, C, n, H, W) of each chunk.

    Attributes:
        names: of the states, in the order in which `forward` takes and gives them.
        states: what they are at the start of a video: zeros.
        lead: answers at the start that are to be dropped.
        filled_after: chunks after which each does what the one before it did.

    Raises:
        ValueError: chunks of n frames do not give equally many answers each.
    """

    def __init__(self, stream: Any, shape: Sequence[int]) -> None:
        super().__init__()
        stream.measure((*shape[:2], *shape[3:]))
        tensors = (*stream.model.parameters(), *stream.model.buffers())
        self.model = shared_copy(stream.model)
        restart(self.model)
        outline = shared_copy(self.model, lambda tensor: tensor.to("meta"))
        dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
        before, after = steady(outline, torch.empty(tuple(shape), device="meta", dtype=dtype))
        self.filled_after = after.number
        self.lead = -_line(before.number, before.given, after.given).start
        # what each layer keeps: tensors, and numbers that follow from that of the chunk
        self._kept: dict[str, State] = {}
        for name, state in after.states.items():
            numbers = [key for key, value in state.items() if isinstance(value, int)]
            lines = {key: _line(before.number, before.states[name][key], state[key]) for key in numbers}
            self._kept[name] = {**state, **lines}
        # the frame that each layer is given first
        self._first = {name: _line(before.number, before.taken[name], taken) for name, taken in after.taken.items()}
        named = {
            f"{name}.{key}" + (f".{i}" if isinstance(value, list) else ""): tensor
            for name, kept in self._kept.items()
            for key, value in kept.items()
            for i, tensor in enumerate(_tensors(value))
            if tensor.numel()
        }
        self.names = tuple(named)
        self.states = tuple(torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in named.values())

    def forward(self, frames: Tensor, number: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """A chunk (B, C, n, H, W), its number () from 0 up, the states -> answers (B, K, m), number + 1, states."""
        with self._resumed(number, iter(states)) as twins:
            answers = self.model(frames)
            after = [
                tensor
                for name, kept in self._kept.items()
                for key, value in kept.items()
                for tensor in _kept_of(value, twins[name].state[key])
            ]
        return (answers, number + 1, *after)

    @contextmanager
    def _resumed(self, number: Tensor, states: Iterator[Tensor]) -> Iterator[dict[str, Any]]:
        """The layers with these states, and without them again afterwards, as a graph demands."""
        twins = twins_of(self.model)
        empty = {name: twin.state for name, twin in twins.items()}
        hooks = []
        for name, twin in twins.items():
            twin.state = {
                key: value.at(number) if isinstance(value, Line) else _filled(value, states)
                for key, value in self._kept[name].items()
            }
            if not isinstance(twin, Waiting | Delaying | Dilated):  # a dense stream pads nothing
                hooks.append(twin.register_forward_pre_hook(partial(self._blank, self._first[name], number)))
        try:
            yield twins
        finally:
            for hook in hooks:
                hook.remove()
            for name, twin in twins.items():
                twin.state = empty[name]

    @staticmethod
    def _blank(first: Line, number: Tensor, twin: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Padding in the place of frames before the first of the video."""
        (x,) = inputs
        fill = getattr(twin, "fill", 0.0)
        if fill:  # states begin with zeros
            tail = twin.state["tail"]
            twin.state["tail"] = _padded(tail, first.at(number) - tail.shape[2], fill)
        return (_padded(x, first.at(number), fill) if first.start < 0 else x,)


class Continued(nn.Module):
    """A chunk of a stream whose chunks do alike, as a function of what the twins keep: it keeps nothing itself.

    What it takes and gives back is in channels-last layout, (B, T, H, W, C), which fast convolutions want.

    Args:
        model: the network of a stream; its weights are shared.
        before: what its twins kept before a chunk, by name.
        after: what they kept after it.

    Raises:
        ValueError: the two are not alike: there is more to come before each chunk does what the one before it did.
    """

    rates: Tensor  # (1, N), what a chunk adds to the counts

    def __init__(self, model: nn.Module, before: dict[str, State], after: dict[str, State]) -> None:
        super().__init__()
        if form(before) != form(after):
            raise ValueError("chunks of this size do not do alike")
        self.model = shared_copy(model)
        restart(self.model)
        self._kept = after
        self._counters = [(name, key) for name, key in _counters(after) if before[name][key] != after[name][key]]
        like = next(model.parameters(), torch.empty(0))
        rates = [after[name][key] - before[name][key] for name, key in self._counters]
        self.register_buffer("rates", torch.tensor([rates], device=like.device), persistent=False)
        self.constants = {(name, key): after[name][key] for name, key in _counters(after)}
        for counter in self._counters:
            del self.constants[counter]

    def forward(self, frames: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """A chunk (B, C, n, H, W), what `taken` gave -> answers (B, K, m) and this anew."""
        twins = twins_of(self.model)
        empty = {name: twin.state for name, twin in twins.items()}
        self.put(kept, twins, frames.device)
        try:
            answers = self.model(frames)
            after = {name: twin.state for name, twin in twins.items()}
            # all at once, not each where it is counted: a graph would have some steps for every layer
            counts = [kept[0] + self.rates] if self._counters else []
            return (answers, *counts, *self._own(after))
        finally:
            for name, twin in twins.items():
                twin.state = empty[name]

    def put(
        self,
        kept: Sequence[Tensor],
        twins: dict[str, Any],
        device: torch.device,
        split: Callable[[Tensor], Sequence[Any]] | None = None,
    ) -> None:
        """What `taken` gave, into twins on a device, the counts as tensors, or as `split` gives them."""
        given = iter(kept)
        numbers = {}
        if self._counters:
            (counts,) = next(given)
            # one by one, since a graph would unbind all of them for the few that a layer reads
            each = split(counts) if split else [counts[i] for i in range(len(counts))]
            numbers = dict(zip(self._counters, each, strict=True))
        tensors = map(_first, given)
        for name, state in self._kept.items():
            twins[name].state = {
                key: numbers.get((name, key), value) if isinstance(value, int) else _filled(value, tensors, device)
                for key, value in state.items()
            }

    def taken(self, states: dict[str, State], device: torch.device) -> tuple[Tensor, ...]:
        """Counts (1, N) int64 on a device, if there are some, and the tensors that twins keep, but for empty ones."""
        counts = [states[name][key] for name, key in self._counters]
        return (*([torch.tensor([counts], device=device)] if counts else []), *self._own(states))

    def _own(self, states: dict[str, State]) -> list[Tensor]:
        return [
            _last(x)
            for name, state in self._kept.items()
            for key, value in state.items()
            for x in _kept_of(value, states[name][key])
        ]

    def fits(self, states: dict[str, State]) -> bool:
        """Whether twins that keep this can go on here."""
        return form(states) == form(self._kept) and all(
            states[name][key] == value for (name, key), value in self.constants.items()
        )


def form(states: dict[str, State]) -> Any:
    """Names and shapes of what twins keep."""
    return {
        name: {key: [tuple(x.shape) for x in _tensors(value)] for key, value in state.items()}
        for name, state in states.items()
    }


def _counters(states: dict[str, State]) -> list[tuple[str, str]]:
    return [(name, key) for name, state in states.items() for key, value in state.items() if isinstance(value, int)]


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1) if x.ndim == 5 else x


def _first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3) if x.ndim == 5 else x


def _padded(x: Tensor, first: Any, fill: float) -> Tensor:
    """`fill` at the steps of (B, C, n, H, W) below 0, where x begins with step `first`."""
    is_there = torch.arange(x.shape[2]) + first >= 0
    return torch.where(is_there.view(-1, 1, 1), x, fill)


def _filled(value: Any, given: Iterator[Tensor], device: torch.device | None = None) -> Any:
    """What a twin keeps, with what is given in the place of its tensors; those without elements are made anew."""
    if isinstance(value, list):
        return [_filled(each, given, device) for each in value]
    if not isinstance(value, Tensor):
        return value
    return next(given) if value.numel() else torch.zeros(value.shape, dtype=value.dtype, device=device)


def _kept_of(known: Any, value: Any) -> list[Tensor]:
    """The tensors of a value that have elements where a known one has some."""
    is_count = not isinstance(known, Tensor | list)  # which in a graph is a tensor, too
    return [] if is_count else [x for like, x in zip(_tensors(known), _tensors(value), strict=True) if like.numel()]


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else value if isinstance(value, list) else []


class Moment(NamedTuple):
    """Where a stream is after so many chunks: steps that each layer took, steps that were given, what is kept."""

    number: int
    taken: dict[str, int]
    given: int
    states: dict[str, State]


def _line(number: int, before: int, after: int) -> Line:
    """Through the values after `number` chunks and after one more."""
    rate = int(after) - int(before)
    return Line(int(before) - rate * number, rate)


def steady(model: nn.Module, chunk: Tensor) -> tuple[Moment, Moment]:
    """Two moments a chunk apart, from which on each chunk does what the one before it did.

    Args:
        model: the network of a stream, which goes on from where it is; on the meta device shapes alone are computed.
        chunk: (B, C, n, H, W), given again and again.

    Raises:
        ValueError: chunks of n frames never come to be alike.
    """
    twins = twins_of(model)
    taken = dict.fromkeys(twins, 0)

    def take(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken[name] += inputs[0].shape[2]

    for name, twin in twins.items():
        twin.register_forward_pre_hook(partial(take, name))
    now = Moment(0, dict(taken), 0, {name: {} for name in twins})
    done: list[Any] = [None]
    while now.number * chunk.shape[2] < _MOST:
        given = model(chunk).shape[2]
        states = {name: dict(twin.state) for name, twin in twins.items()}
        before, now = now, Moment(now.number + 1, dict(taken), now.given + given, states)
        sizes = [tuple(each.shape) for state in states.values() for value in state.values() for each in _tensors(value)]
        skips = [state.get("skip") for state in states.values()]
        done.append((given, sizes, skips, [now.taken[name] - before.taken[name] for name in twins]))
        if given and done[-1] == done[-2]:
            return before, now
        if done[-1] in done[:-1]:  # they take turns
            break
    raise ValueError(
        f"chunks of {chunk.shape[2]} frames do not give equally many answers each: give as the example a chunk "
        "(B, C, n, H, W) whose n is a multiple of the frames to one answer (model.strides[-1][0])"
    )
