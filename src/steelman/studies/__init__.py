"""Studies: a question, the runs that answer it, and a page that says what happened."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from steelman.data import Source
from steelman.data.digits import Digits
from steelman.errors import UsageError, check_seed
from steelman.progress import Progress, silent
from steelman.spec import Spec


@dataclass(frozen=True, repr=False)
class Study(Spec):
    """A question with everything that is done to answer it.

    `preset` is the original's protocol, its faults included where they define its numbers ("published"), or the same
    question asked properly ("corrected"). `scale` is the size: "smoke" takes seconds, "quick" minutes, "full" hours.

    Raises:
        UsageError: a seed below 0 or from 2^63 on, or a radius outside (0, 1].
    """

    data: Source = Digits()  # noqa: RUF009
    preset: Literal["published", "corrected"] = "corrected"
    scale: Literal["smoke", "quick", "full"] = "smoke"
    seed: int = 0

    question: ClassVar[str] = ""
    original: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        given = getattr(self, "eps", None)
        for eps in (*(() if given is None else (given,)), *getattr(self, "eps_list", ())):
            if not 0 < eps <= 1:
                raise UsageError(
                    f"eps is {eps:g}. Expected above 0 and up to 1, as pixels are in [0, 1]: levels of 0 to 255 are "
                    "divided by 255, such as 8/255."
                )

    def run(self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = "") -> None:
        """Do everything that is not done yet in the run directory `out`; leaves `results/page.json` for the report.

        Raises:
            RunError: the directory is in use, holds something else, or cannot be written.
            DataError: the data cannot be read.
            Interrupted: by Ctrl-C; the same call goes on.
        """
        raise NotImplementedError
