"""What is looked at of the data before a sweep begins, once for all its points. Imports no torch."""

from collections.abc import Iterable, Iterator, Sequence

from moco.config.schema import Data, OtherData
from moco.data.there import check_data
from moco.errors import UserError
from moco.launch.job import Task
from moco.training.same_data import Looked, check_files, check_other


def refuse_changed(tasks: Iterable[Task]) -> None:
    """Refuses runs that were trained, have begun or were evaluated on other images than those that are there now.

    Raises:
        UserError: a line for each.
    """
    problems, looked = [], Looked()
    for task in tasks:
        try:
            if task.config:
                check_files(task.run, task.config, looked)
            for asked in task.evaluations:
                if isinstance(asked, OtherData):
                    check_other(task.run, asked.data, looked)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def refuse_missing(tasks: Sequence[Task]) -> None:
    """Refuses tasks whose data is not on this machine and cannot be downloaded.

    Raises:
        UserError: its lines for each data set that is missing.
    """
    asked: dict[tuple[str, str | None, str, float, str | None, bool], None] = {}
    for section in _sections(tasks):
        dataset = str((section.model_extra or {}).get("dataset"))
        key = section.target, section.root, dataset, section.validation, section.path, section.skip_corrupt
        asked[key] = None
    problems: dict[str, None] = {}
    for one in asked:
        try:
            check_data(*one)
        except UserError as error:
            problems[str(error)] = None
    if problems:
        raise UserError("\n".join(problems))


def _sections(tasks: Iterable[Task]) -> Iterator[Data]:
    """The data that each task loads."""
    for task in tasks:
        yield from (asked.data for asked in task.evaluations if isinstance(asked, OtherData))
        if task.config or not all(isinstance(asked, OtherData) for asked in task.evaluations):
            section = (task.config or task.run.config).data
            moved = None if task.config else next((e.root for e in task.evaluations if e.root), None)
            yield section.moved(moved)
