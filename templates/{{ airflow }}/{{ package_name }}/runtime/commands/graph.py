"""`nox -s graph`: a pipeline's tasks and their order, as a file from which Airflow makes a DAG."""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi
from luigi.parameter import ParameterVisibility
from luigi.task import flatten

from .. import paths
from ..console import as_called
from ..errors import PipelineError
from ..store.files import write_whole
from ..task.metaflow_task import DATES, MetaflowTask
from .run import in_order, listing, mistakes_shown, named_task, read
from .run_options import option

FOLDER = "dags/graphs"
"""Where the graphs are, in the repo."""

SAMPLE = datetime.datetime(2000, 2, 3, 4, 5, 6)
"""The date for which a graph is drawn. The names of its tasks are the same for any other."""

_SCHEMAS: dict[type[luigi.Parameter[Any]], dict[str, Any]] = {
    luigi.BoolParameter: {"type": "boolean"},
    luigi.IntParameter: {"type": "integer"},
    luigi.FloatParameter: {"type": "number"},
    luigi.DictParameter: {"type": "object"},
    luigi.ListParameter: {"type": "array"},
}
"""JSON Schema of values whose text Luigi reads as JSON. All others are text."""

_ANY_ITEMS = {"type": ["array", "boolean", "null", "number", "object", "string"]}
"""Lets Airflow's form ask for a list as JSON; without it each line of a text is an item, a text."""


def main(arguments: list[str]) -> int:
    """Write the graph of the pipeline that the arguments name, or check that it is up to date."""
    parser = argparse.ArgumentParser(
        prog="nox -s graph --",
        usage="nox -s graph -- [--check] [--name NAME] [FILE [TASK]] [OPTIONS]",
        description="Write the graph of a pipeline, from which a DAG of Airflow is made. Without "
        "FILE: all graphs again, after the tasks have changed.",
        epilog="FILE, TASK and OPTIONS are those of nox -s run: what is given stays so in each run "
        "of the DAG, and the other parameters of the task become those of the DAG.",
        allow_abbrev=False,
    )
    parser.add_argument("--name", default="", help=f"of its file in {FOLDER}/; default: FILE's")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    known, arguments = parser.parse_known_args(arguments)
    with mistakes_shown():
        if not arguments and not known.name:
            return max([update(file, pipeline_of(file), known.check) for file in graph_files()])
        graph = graph_of(arguments)
        module = graph["pipeline"][0].rpartition("/")[2].removesuffix(".py")
        name = known.name or module.removesuffix("_tasks")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise PipelineError(f"--name {name!r} must be letters, digits, '.', '_' or '-'")
        file = paths.ROOT / FOLDER / f"{name}.json"
        if file.is_file() and (other := pipeline_of(file)[0]) != arguments[0]:
            raise PipelineError(
                f"{FOLDER}/{file.name} is the graph of {other}\n"
                "hint: give this one another name: --name NAME"
            )
        return update(file, arguments, known.check)


def graph_files() -> list[Path]:
    """The files of all graphs. Raises PipelineError if there is none."""
    files = sorted((paths.ROOT / FOLDER).glob("*.json"))
    if not files:
        raise PipelineError(f"there is no graph yet: nox -s graph -- FILE\n{listing()}")
    return files


def pipeline_of(file: Path) -> list[str]:
    """The arguments with which the graph was made."""
    try:
        pipeline: list[str] = json.loads(file.read_text(encoding="utf-8"))["pipeline"]
    except (ValueError, LookupError) as error:
        raise PipelineError(
            f"{FOLDER}/{file.name} is no graph: {error}\n"
            "hint: delete it, and write it again: nox -s graph -- FILE"
        ) from error
    return pipeline


def update(file: Path, arguments: list[str], is_check: bool) -> int:
    """Write the graph of what the arguments name, or check it; the exit code."""
    graph = graph_of(arguments)
    text = json.dumps(graph, indent=2, ensure_ascii=False) + "\n"
    shown, names = f"{FOLDER}/{file.name}", ", ".join(node["name"] for node in graph["nodes"])
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        print(f"{shown} is up to date: {names}")
    elif is_check:
        print(as_called(f"{shown} is not what the tasks are\nhint: nox -s graph"))
        return 1
    else:
        write_whole(file, text.encode())
        print(f"{shown}: {names}")
    return 0


def graph_of(arguments: list[str]) -> dict[str, Any]:
    """The graph, as it is written: the pipeline, the parameters of its DAG, and its tasks."""
    root = root_task(arguments, is_sample=True)
    named = named_tasks(root)
    names = {task: name for name, task in named.items()}
    given = {word.partition("=")[0] for word in arguments}
    return {
        "pipeline": arguments,
        "parameters": {
            name: _described(root, name, parameter)
            for name, parameter in own_parameters(type(root))
            if option(name) not in given
        },
        "nodes": [
            {
                "name": name,
                "flow": task.flow_path if isinstance(task, MetaflowTask) else None,
                "doc": (type(task).__doc__ or "").partition("\n")[0].strip(),
                "requires": sorted({names[each] for each in required(task)}),
            }
            for name, task in named.items()
        ],
    }


def own_parameters(task: type[luigi.Task]) -> Iterator[tuple[str, luigi.Parameter[Any]]]:
    """The parameters that a DAG offers: the task's own, which are no secrets."""
    runtime = __name__.partition(".commands.")[0]
    for name, parameter in task.get_params():
        owner = next(each for each in task.__mro__ if name in vars(each))
        is_own = not f"{owner.__module__}.".startswith((f"{runtime}.", "luigi."))
        if is_own and parameter.visibility == ParameterVisibility.PUBLIC:
            yield name, parameter


def _described(root: luigi.Task, name: str, parameter: luigi.Parameter[Any]) -> dict[str, Any]:
    """What a DAG has to know of a parameter: its schema, its default and how it is given."""
    # What Luigi adds of choices is in another order each time.
    description = re.sub(r"\s*Choices: \{.*\}$", "", parameter.description or "")
    described: dict[str, Any] = {"description": description}
    if isinstance(parameter, DATES):
        return described | {"schema": {"type": "string"}, "moment": parameter.date_format}
    value, text = getattr(root, name), parameter.serialize(getattr(root, name))
    if values := _choices(parameter):
        return described | {"schema": {"type": "string", "enum": values}, "default": text}
    schema = next((each for kind, each in _SCHEMAS.items() if isinstance(parameter, kind)), None)
    if schema is None and text:
        # Luigi takes an empty option for none.
        return described | {"schema": {"type": "string", "minLength": 1}, "default": text}
    if schema is None or value is None:
        schema = schema or {"type": "string"}  # Airflow's form wants a text unless null is one
        return described | {"schema": {"type": ["null", schema["type"]]}, "default": None}
    if isinstance(parameter, luigi.BoolParameter):
        described["is_switch"] = parameter.parsing == "implicit"
        text = text.lower()
    default = json.loads(text)
    if isinstance(default, list) and not (default and all(isinstance(x, str) for x in default)):
        schema = schema | {"items": _ANY_ITEMS}
    return described | {"schema": schema, "default": default}


def _choices(parameter: luigi.Parameter[Any]) -> list[str]:
    """The texts that the parameter takes; none if it takes any, or a list of them."""
    values: Any = ()  # Luigi keeps them in private attributes
    if type(parameter) is luigi.ChoiceParameter:
        values = getattr(parameter, "_choices", ())
    elif type(parameter) is luigi.EnumParameter:
        values = getattr(parameter, "_enum", ())
    return sorted(map(parameter.serialize, values))


def root_task(arguments: list[str], *, is_sample: bool = False) -> luigi.Task:
    """The task that the arguments name; a date that has no option is SAMPLE if it is one."""
    asked = read(arguments)
    luigi_arguments = asked.luigi_arguments()
    if is_sample:
        given = {word.partition("=")[0] for word in luigi_arguments}
        luigi_arguments += [
            f"{option(name)}={SAMPLE.strftime(parameter.date_format)}"
            for name, parameter in asked.task_class.get_params()
            if isinstance(parameter, DATES) and option(name) not in given
        ]
    return named_task(luigi_arguments)


def required(task: luigi.Task) -> Iterator[luigi.Task]:
    """The tasks that a task requires; of a wrapper, which does nothing, those that it requires."""
    for each in flatten(task.requires()):
        if isinstance(each, luigi.WrapperTask):
            yield from required(each)
        else:
            yield each


def all_tasks(root: luigi.Task) -> list[luigi.Task]:
    """All tasks of the pipeline, done or not, each after what it requires, without wrappers."""
    tasks = in_order(root, also_done=True)
    return [task for task in tasks if not isinstance(task, luigi.WrapperTask)]


def named_tasks(root: luigi.Task) -> dict[str, luigi.Task]:
    """A name for each task of the pipeline, in their order.

    It is the class, and if several tasks are of one, the values in which they differ; or a number,
    if they differ in dates alone, which are others for each run.
    """
    of_class: dict[str, list[luigi.Task]] = {}
    tasks = all_tasks(root)
    for task in tasks:
        is_flow = type(task) is MetaflowTask  # named by its file alone
        name = Path(str(task.flow_path)).stem if is_flow else type(task).__name__
        of_class.setdefault(name, []).append(task)
    names: dict[luigi.Task, str] = {}
    for name, same_class in of_class.items():
        texts = [task.to_str_params(only_significant=True, only_public=True) for task in same_class]
        dates = {each for each, parameter in same_class[0].get_params() if is_moment(parameter)}
        keys = [
            each
            for each in texts[0]
            if each not in dates and len({text.get(each) for text in texts}) > 1
        ]
        labels = [
            re.sub(r"[^\w.-]", "_", ".".join([name, *(text.get(each, "") for each in keys)]))
            for text in texts
        ]
        for task, label in zip(same_class, labels, strict=True):
            twins = [twin for twin, other in zip(same_class, labels, strict=True) if other == label]
            number = f".{twins.index(task) + 1}" if len(twins) > 1 else ""
            names[task] = f"{label[:200]}{number}"
    if len({*names.values()}) < len(names):
        raise PipelineError("two tasks have one name, or their values begin alike")
    return {names[task]: task for task in tasks}


def is_moment(parameter: luigi.Parameter[Any]) -> bool:
    """True if the parameter's values are dates or times."""
    return isinstance(parameter, DATES)
