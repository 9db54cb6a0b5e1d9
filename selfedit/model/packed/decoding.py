"""A running batch that requests join and leave: the queue before the Decoder, and the adapters of its requests.

In: requests, each with the folder of its adapter. Out: their tokens, step by step. A request waits in the queue while
the rows or the cache are full, or while adapters of another LoraConfig run; none overtakes another, so none starves.
The reference is `generate`, which writes the same texts: tests/test_decoding.py compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count
from operator import itemgetter
from pathlib import Path

from selfedit.model.backend import LoraConfig, Request, check_requests
from selfedit.model.chat import Chat
from selfedit.model.packed.generate import Decoder, ranking
from selfedit.model.packed.lora import LoraBatch, load_adapter
from selfedit.model.packed.network import Network
from selfedit.model.sampling import Continuation


class AdapterPool:
    """Adapters of one configuration in the rows of one LoraBatch. It doubles up to `slots` rows; after that a new
    adapter replaces the least recently needed one."""

    def __init__(self, network: Network, config: LoraConfig, slots: int):
        self.slots, self.batch = slots, LoraBatch(network.shape, config, 1, network.device)
        self.rows: dict[Path, int] = {}
        """By folder, the least recently needed first."""

    def row(self, folder: Path) -> int:
        """The row of an adapter, which is now the most recently needed one."""
        self.rows[folder] = self.rows.pop(folder)
        return self.rows[folder]

    def add(self, folder: Path, adapter: LoraBatch, busy: Collection[Path]) -> tuple[Path, LoraBatch] | None:
        """Copies an adapter into a row. Returns the adapter that it replaces, if any: none of the busy ones, which are
        fewer than `slots`."""
        row, replaced = len(self.rows), None
        if row == self.slots:
            oldest = next(other for other in self.rows if other not in busy)
            row = self.rows.pop(oldest)
            replaced = oldest, self.batch.subset([row])
        elif row == self.batch.count:
            larger = LoraBatch(adapter.shape, adapter.config, min(2 * row, self.slots), adapter.flat.device)
            larger.flat[:row] = self.batch.flat
            self.batch = larger
        self.batch.flat[row] = adapter.flat[0]
        self.rows[folder] = row
        return replaced


@dataclass(frozen=True)
class _Member:
    key: int
    request: Request
    folder: Path | None
    config: LoraConfig | None
    """Of the adapter."""


class PackedDecoding:
    """As `backend.Decoding`. Not thread-safe: one thread drives it."""

    def __init__(self, network: Network, chat: Chat, slots: int):
        self.network, self.slots = network, slots
        self._decoder = Decoder(network, chat, slots)
        self._waiting: deque[_Member] = deque()
        self._running: dict[Continuation, _Member] = {}
        self._pools: dict[LoraConfig, AdapterPool] = {}
        self._unplaced: dict[Path, LoraBatch] = {}
        """The adapters of waiting requests that have no row in a pool."""
        self._keys = count()

    @property
    def running(self) -> int:
        return len(self._running) + len(self._waiting)

    def add(self, requests: Sequence[tuple[Request, Path | None]]) -> list[int]:
        check_requests((request for request, _ in requests), self.network.shape.max_positions)
        folders = list(dict.fromkeys(folder for _, folder in requests if folder))
        configs, loaded = {}, {}
        for folder in folders:
            if pool := next((pool for pool in self._pools.values() if folder in pool.rows), None):
                pool.row(folder)
                configs[folder] = pool.batch.config
            else:
                loaded[folder] = self._unplaced.get(folder) or load_adapter(self.network, folder)
                configs[folder] = loaded[folder].config
        self._unplaced |= loaded
        members = []
        for (request, folder), key in zip(requests, self._keys):
            adapter = folders.index(folder) if folder else None  # until the adapter has a row: for `ranking`
            config = configs[folder] if folder else None
            members.append(_Member(key, replace(request, adapter=adapter), folder, config))
        self._waiting.extend(sorted(members, key=lambda member: ranking(member.request)))
        return [member.key for member in members]

    def step(self) -> list[tuple[int, int | None]]:
        events = self._keyed(self._decoder.step())
        if newcomers := self._newcomers():
            events += self._keyed(self._decoder.join(newcomers))
        return sorted(events, key=itemgetter(0))

    def cancel(self, key: int) -> None:
        self._waiting = deque(member for member in self._waiting if member.key != key)
        needed = {member.folder for member in self._waiting}
        self._unplaced = {folder: adapter for folder, adapter in self._unplaced.items() if folder in needed}
        if text := next((text for text, member in self._running.items() if member.key == key), None):
            del self._running[text]
            self._decoder.remove([text])

    def _keyed(self, written: list[tuple[Continuation, int | None]]) -> list[tuple[int, int | None]]:
        """The events of the decoder with keys; requests that have ended are no longer members."""
        events = []
        for text, event in written:
            member = self._running[text] if event is not None else self._running.pop(text)
            events.append((member.key, event))
        return events

    def _newcomers(self) -> list[Continuation]:
        """Takes the first requests of the queue that can run with the others, and gives their adapters rows."""
        newcomers = []
        longest = max((member.request.most_tokens for member in self._running.values()), default=0)
        config = next((member.config for member in self._running.values() if member.config), None)
        while self._waiting:
            member = self._waiting[0]
            longest = max(longest, member.request.most_tokens)
            if len(self._running) >= self._decoder.rows_that_fit(longest):
                break
            if config and member.config and member.config != config:
                break
            self._waiting.popleft()
            config = config or member.config
            row = self._placed(member.folder, member.config) if member.folder and member.config else None
            newcomers.append(text := Continuation(replace(member.request, adapter=row)))
            self._running[text] = member
        self._decoder.adapters = self._pools[config].batch if config else None
        return newcomers

    def _placed(self, folder: Path, config: LoraConfig) -> int:
        """The row of an adapter in the pool of its configuration, which it gets if it has none."""
        if config not in self._pools:
            self._pools[config] = AdapterPool(self.network, config, self.slots)
        pool = self._pools[config]
        if folder not in pool.rows:
            replaced = pool.add(folder, self._unplaced.pop(folder), {m.folder for m in self._running.values()})
            if replaced and any(member.folder == replaced[0] for member in self._waiting):
                self._unplaced[replaced[0]] = replaced[1]
        return pool.row(folder)
