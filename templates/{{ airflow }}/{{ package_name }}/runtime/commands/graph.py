"""`nox -s graph`: a pipeline's tasks and their order, as a file from which Airflow makes a DAG."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator
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
from .run import find, in_order, listing, mistakes_shown, named_task, read
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
    parser.add_argument("pipeline", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    known = parser.parse_args(arguments)
    arguments = known.pipeline
    with mistakes_shown():
        if not arguments and not known.name:
            return max([update(file, pipeline_of(file), known.check) for file in graph_files()])
        if not arguments:
            raise PipelineError(f"--name needs FILE\n{listing()}")
        arguments = [relative(find(arguments[0])), *arguments[1:]]
        module = arguments[0].rpartition("/")[2].removesuffix(".py")
        name = known.name or module.removesuffix("_tasks")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise PipelineError(f"--name {name!r} must be letters, digits, '.', '_' or '-'")
        file = paths.ROOT / FOLDER / f"{name}.json"
        if file.is_file() and (other := named_in(pipeline_of(file))) != named_in(arguments):
            raise PipelineError(
                f"{FOLDER}/{file.name} is the graph of {' '.join(other)}\n"
                f"hint: nox -s graph -- --name NAME {shlex.join(arguments)}"
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


def named_in(arguments: list[str]) -> list[str]:
    """FILE and TASK of the arguments, without options."""
    words = itertools.takewhile(lambda word: not word.startswith("-"), arguments)
    return [*words, "RootTask"][:2]


def relative(file: Path) -> str:
    """The file as arguments name it, on any machine."""
    folder = paths.FLOWS if file.is_relative_to(paths.FLOWS) else paths.TASKS
    return file.relative_to(folder).as_posix()


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
    for name, parameter in root.get_params():
        if option(name) in given and parameter.visibility != ParameterVisibility.PUBLIC:
            raise PipelineError(
                f"{option(name)} is private, and would be in a file of git\n"
                "hint: let the task look it up, e.g. with secret()"
            )
    depths: dict[str, int] = {}
    for name, task in named.items():  # each after what it requires
        depths[name] = 1 + max((depths[names[each]] for each in required(task)), default=0)
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
            for name, task in sorted(named.items(), key=lambda item: (depths[item[0]], item[0]))
        ],
    }


def sum_of(names: Iterable[str]) -> str:
    """A checksum of the names of a graph's tasks."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def own_parameters(task: type[luigi.Task]) -> Iterator[tuple[str, luigi.Parameter[Any]]]:
    """The parameters that a DAG offers: the task's own, which are no secrets."""
    runtime = __name__.partition(".commands.")[0]
    for name, parameter in task.get_params():
        owner = next(each for each in task.__mro__ if name in vars(each))
        is_own = not f"{owner.__module__}.".startswith((f"{runtime}.", "luigi."))
        is_switch = isinstance(parameter, luigi.BoolParameter) and parameter.parsing == "implicit"
        is_fixed = is_switch and is_default(task, name, True)  # no option makes it False
        if is_own and parameter.visibility == ParameterVisibility.PUBLIC and not is_fixed:
            yield name, parameter


def is_default(task: type[luigi.Task], name: str, value: bool | None) -> bool:
    """True if the parameter has this value by default."""
    parameter, family = dict(task.get_params())[name], task.get_task_family()
    has_default = parameter.has_task_value(family, name)
    return has_default and parameter.task_value(family, name) is value


def _described(root: luigi.Task, name: str, parameter: luigi.Parameter[Any]) -> dict[str, Any]:
    """What a DAG has to know of a parameter: its schema, its default and how it is given."""
    # What Luigi adds of choices is in another order each time.
    description = re.sub(r"\s*Choices: \{.*\}$", "", parameter.description or "")
    described: dict[str, Any] = {"description": description}
    value = getattr(root, name)
    if isinstance(parameter, DATES) and value is not None:
        return described | {"schema": {"type": "string"}, "moment": parameter.date_format}
    if isinstance(parameter, luigi.BoolParameter):
        described["is_switch"] = parameter.parsing == "implicit"
    schema = next((each for kind, each in _SCHEMAS.items() if isinstance(parameter, kind)), None)
    if value is None:
        type_ = schema["type"] if schema else "string"
        return described | {"schema": {"type": ["null", type_]}, "default": None}
    text = parameter.serialize(value)
    if values := _choices(parameter):
        return described | {"schema": {"type": "string", "enum": values}, "default": text}
    if isinstance(value, float) and not math.isfinite(value):
        schema = None  # JSON has no such number
    if schema is None and text:
        # Luigi takes an empty option for none.
        return described | {"schema": {"type": "string", "minLength": 1}, "default": text}
    if schema is None:  # Airflow's form wants a text, unless null is one
        return described | {"schema": {"type": ["null", "string"]}, "default": None}
    default = json.loads(text.lower() if schema["type"] == "boolean" else text)
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
            if isinstance(parameter, DATES)
            and option(name) not in given
            and not is_default(asked.task_class, name, None)
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
        name = type(task).__name__
        if isinstance(task, MetaflowTask) and name == "MetaflowTask":  # of a file alone
            name = Path(str(task.flow_path)).stem
        of_class.setdefault(name, []).append(task)
    names: dict[luigi.Task, str] = {}
    for name, same_class in of_class.items():
        texts = [task.to_str_params(only_significant=True, only_public=True) for task in same_class]
        dates = [each for each, parameter in same_class[0].get_params() if is_moment(parameter)]
        keys = [
            each
            for each in texts[0]
            if each not in dates and len({text.get(each) for text in texts}) > 1
        ]
        labels = [
            re.sub(r"[^\w.-]", "_", ".".join([name, *(text.get(each, "") for each in keys)]))
            for text in texts
        ]
        # By their dates, because requires() may return a set, which has another order each time.
        by_label: dict[str, list[tuple[list[str], luigi.Task]]] = {}
        for task, label, text in zip(same_class, labels, texts, strict=True):
            by_label.setdefault(label, []).append(([text.get(each, "") for each in dates], task))
        for label, twins in by_label.items():
            for number, (_, task) in enumerate(sorted(twins, key=lambda twin: twin[0]), start=1):
                names[task] = label[:200] + (f".{number}" if len(twins) > 1 else "")
    if len({*names.values()}) < len(names):
        raise PipelineError("two tasks have one name, or their values begin alike")
    return {names[task]: task for task in tasks}


def is_moment(parameter: luigi.Parameter[Any]) -> bool:
    """True if the parameter's values are dates or times."""
    return isinstance(parameter, (*DATES, luigi.DateIntervalParameter))
