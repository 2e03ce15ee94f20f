"""SIGTERM while a stage trains: the step under way is finished and saved, then the process ends with code 143.

The trainer runs in the process that the scheduler signals. Ray's own handler, which ends the process at once, is
replaced after Ray has started.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from qwenlong.core.processes import end_late

#: 128 + SIGTERM: what a shell reports of a process that the signal ended.
CODE = 143
#: Seconds for ending Ray and the MLflow run.
ENDING = 20.0


class Preempted(SystemExit):
    """The stage ends because it was told to. The same command goes on from its last checkpoint."""

    def __init__(self, said: str) -> None:
        super().__init__(CODE)
        self.said = said


class Watch:
    """Whether this process was told to end, and when it must."""

    def __init__(self) -> None:
        self.grace = 0.0
        self.told = False
        self.training = False
        """Steps have begun: there is something to finish."""

    def install(self, grace: float) -> None:
        """Take SIGTERM over. `grace`: seconds for what is under way; 0: none."""
        self.grace, self.told, self.training = grace, False, False
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGALRM, self._late)

    def cancel(self) -> None:
        """The stage is done, or ends: no alarm any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self.told:
            return
        self.told = True
        if not self.training or not self.grace:
            raise self._error("no step was under way")
        print(
            f"told to end (SIGTERM): finishing and saving the step under way, for at most {self.grace:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        signal.setitimer(signal.ITIMER_REAL, self.grace)

    def _late(self, number: int, frame: FrameType | None) -> None:
        raise self._error(f"the step under way took longer than run.grace_seconds = {self.grace:.0f}; it is lost")

    def _error(self, why: str) -> Preempted:
        error = Preempted(f"ended by SIGTERM: {why}. The same command goes on from the last checkpoint")
        print(error.said, file=sys.stderr, flush=True)
        end_late(ENDING)
        return error

    def next_step(self, saved: bool) -> None:
        """Say that a step begins. Raises Preempted when the process was told to end and the last step is saved."""
        if self.told and saved:
            raise self._error("the step that was under way is saved")
        self.training = True


WATCH = Watch()
