"""The processes that work on one command: one object that knows their ranks, made once and handed down.

They are started by torchrun, or by anything else that sets its variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT).  Nothing outside this room names a rank or a process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from unipruning_core.distributed.launched import VARIABLES, launched
from unipruning_core.distributed.meeting import launcher_store, meet
from unipruning_core.distributed.peers import as_rank_errors, is_failed_exchange, report_failure
from unipruning_core.errors import ConfigError, OutputError, RanksError, UnipruningError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

Result = TypeVar("Result")
TIMEOUT = "UNIPRUNING_RANK_TIMEOUT"  # seconds after which a rank that does not answer is given up
DEFAULT_TIMEOUT = 600.0
HOST = "cpu"


@dataclass(frozen=True)
class World:
    """The ranks of a command; a process that is alone is rank 0 of 1, and every method is then its trivial case."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device(HOST)  # noqa: RUF009 - a constant
    sharded: bool = False  # the model lies in shards, also where there is one rank
    copies: int = 1  # of the model, each over size / copies ranks

    @property
    def leads(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.rank == 0

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The ranks as FSDP wants them: one dimension, or copies times shards."""
        from torch.distributed.device_mesh import init_device_mesh

        kind = self.device.type
        if self.copies == 1:
            return init_device_mesh(kind, (self.size,), mesh_dim_names=("shard",))
        return init_device_mesh(kind, (self.copies, self.shards), mesh_dim_names=("copy", "shard"))

    def with_copies(self, copies: int) -> World:
        """Return the same ranks, with so many copies of the model, each divided among size / copies of them.

        Raises:
            ConfigError: the ranks are no multiple of it.
        """
        if copies < 1 or self.size % copies:
            raise ConfigError(f"--copies must divide the number of ranks, {self.size}, not be {copies}")
        return replace(self, copies=copies)

    @property
    def shards(self) -> int:
        """How many ranks hold one copy of the model together."""
        return self.size // self.copies

    @property
    def shard(self) -> int:
        """Which part of a copy this rank holds."""
        return self.rank % self.shards

    def each(self, value: Any) -> list[Any]:
        """Return the value of every rank, any small object, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def in_order(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensor of every rank, all of one shape and dtype, in the order of the ranks."""
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(tensors, tensor.contiguous())
        return tensors

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, in place; exact for whole numbers, and where all but one are 0."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def to_lead(self, tensor: Tensor, source: int) -> Tensor:
        """Return on the first rank the tensor of another, for which it brings one of the same shape to write into."""
        if source and self.rank == source:
            dist.send(tensor.contiguous(), dst=0)
        elif source and self.leads:
            dist.recv(tensor, src=source)
        return tensor

    def from_lead(self, value: Result) -> Result:
        """Return the first rank's value, any small object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def lead_does(self, work: Callable[[], Result]) -> Result:
        """Do something on the first rank alone, and return its result, a small object, or raise its error, on all."""
        if self.size == 1:
            return work()
        outcome: tuple[bool, Any] = (False, None)
        if self.leads:
            try:
                outcome = (True, work())
            except UnipruningError as error:
                outcome = (False, error)
        done, result = self.from_lead(outcome)
        if not done:
            raise result
        found: Result = result
        return found

    def all_do(self, work: Callable[[], None]) -> None:
        """Do something on every rank; where it fails on one, it fails on all.

        Raises:
            OSError: it could not be done here.
            OutputError: it could not be done on another rank, which is named.
        """
        failed: OSError | None = None
        try:
            work()
        except OSError as error:
            failed = error
        whys = self.each(None if failed is None else failed.strerror or str(failed))
        if failed is not None:
            raise failed
        for rank, why in enumerate(whys):
            if why is not None:
                raise OutputError(f"rank {rank}: {why}")

    @contextmanager
    def lead_holds(self, opened: Callable[[], AbstractContextManager[Result]]) -> Iterator[Result | None]:
        """Enter a context, such as a lock, on the first rank alone; others get None, or its error if it has one."""
        held: list[AbstractContextManager[Result]] = []
        entered: list[Result] = []

        def enter() -> None:
            context = opened()
            entered.append(context.__enter__())
            held.append(context)

        self.lead_does(enter)
        if not held:
            yield None
            return
        try:
            yield entered[0]
        except BaseException as error:
            if not held[0].__exit__(type(error), error, error.__traceback__):
                raise
        else:
            held[0].__exit__(None, None, None)

    def agree(self, values: Mapping[str, Any]) -> None:
        """Refuse to go on where ranks would not do the same.

        Raises:
            RanksError: a rank has another value; it is named with what differs.
        """
        mine = self.from_lead(dict(values))
        for rank, others in enumerate(self.each(dict(values))):
            for name in sorted(mine.keys() | others.keys()):
                if mine.get(name) != others.get(name):
                    raise RanksError(
                        f"rank {rank} has another {name} than rank 0 ({others.get(name)!r}, not {mine.get(name)!r}); "
                        "start the same command, with the same files and versions, on every node"
                    )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what a failed exchange between ranks raises into one sentence that names the rank at fault.

        Raises:
            RanksError: another rank failed, died, or did not answer in time.
        """
        if self.size == 1:
            yield
            return
        with as_rank_errors(self.rank, self.size):
            try:
                yield
            except (UnipruningError, KeyboardInterrupt) as error:
                if not is_failed_exchange(error):
                    report_failure(self.rank, str(error))
                raise


ALONE = World()


def join(device_type: str) -> World:
    """Meet the other processes that a launcher started, for a device by torch's name; one that is alone stays so.

    Raises:
        ConfigError: the launcher's variables are incomplete, or there are fewer devices than processes here.
        RanksError: the others do not come.
    """
    if not launched():
        return ALONE
    if lacking := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(lacking)} not set; start the command with "
            "torchrun, or set what torchrun sets"
        )
    rank, size, local = (int(_numeric(name)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device(device_type)
    if device_type != HOST:
        module = torch.get_device_module(device_type)
        if local >= module.device_count():
            raise ConfigError(
                f"local rank {local} has no {device_type} device, since there are {module.device_count()} on this "
                "machine; start at most as many processes"
            )
        device = torch.device(device_type, local)
        module.set_device(device)
    if not dist.is_initialized():
        timeout = timedelta(seconds=float(_numeric(TIMEOUT) if os.environ.get(TIMEOUT) else DEFAULT_TIMEOUT))
        with as_rank_errors(rank, size):
            store = meet(launcher_store(rank, size, timeout), rank, size, timeout)
            dist.init_process_group(_transport(device_type), store=store, timeout=timeout, rank=rank, world_size=size)
    return World(rank, size, device, sharded=True)


def _numeric(name: str) -> str:
    """Return a variable that must be a whole number."""
    text = os.environ[name]
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a whole number, not {text!r}; start the command with torchrun")
    return text


def solitary(device_type: str) -> World:
    """Return a world of this process alone in which the model is divided, so that its parts can lie elsewhere."""
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(_transport(device_type), store=store, rank=0, world_size=1)
    device = torch.device(device_type) if device_type == HOST else torch.device(device_type, 0)
    return World(device=device, sharded=True)


def _transport(device_type: str) -> str:
    """Return the collectives to use: gloo for the host, and what serves the device beside it."""
    if device_type == HOST:
        return "gloo"
    return f"{HOST}:gloo,{device_type}:{dist.get_default_backend_for_device(device_type)}"


def leave() -> None:
    """End this process's part in the group, if it has one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
