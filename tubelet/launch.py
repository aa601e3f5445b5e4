"""Several processes on this machine, by torch's own launcher, the one behind `torchrun`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

__all__ = ["is_first", "is_launched", "launch"]


def is_launched() -> bool:
    """Whether this process is one of several that `launch` or `torchrun` started."""
    return "LOCAL_WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Run `tubelet ARGUMENTS` in so many processes; where one ends with an error, the others are ended.

    Returns:
        The exit status of the first that failed, 0 where none did.

    Raises:
        ChildProcessError: a process was killed; the message says which and by what.
        KeyboardInterrupt: Ctrl-C, after the processes have ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # tables of what is said here in a line
    # seconds for the step that runs and its checkpoint after Ctrl-C; torch's own are 30
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tubelet", *arguments)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise ChildProcessError(
                f"process {rank} of {num_processes} was ended by {name} (SIGKILL: most often the memory was full), and "
                "the others with it; go on with the same command and --resume"
            ) from None
        return failure.exitcode
    return 0
