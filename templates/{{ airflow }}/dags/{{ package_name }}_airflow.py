"""Makes the tasks of a DAG from a pipeline below tasks/: `flow_tasks("co2")` in the file of a DAG.

It imports nothing of the repo, and the repo nothing of Airflow: a task runs a command of the repo,
in the repo's own environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from airflow.sdk import Asset, BaseOperator, BaseOperatorLink, Param
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError as error:
    raise ImportError(f"{__name__} needs Airflow 3; see docs/airflow.md") from error

DAGS = Path(__file__).resolve().parent
PACKAGE = Path(__file__).stem.removesuffix("_airflow")
ROOT = Path(os.environ.get(f"{PACKAGE.upper()}_ROOT") or DAGS.parent).resolve()
"""The repo whose environment runs the tasks; if the DAGs lie elsewhere, the variable names it."""

GRACE = 4.5
"""Seconds in which a flow may end when it is stopped: Airflow kills a task after five."""

OF_ITS_ENVIRONMENT = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
"""Variables that choose Airflow's packages rather than the repo's."""

MISTAKE = 2
"""The exit code for what the same command cannot do better the next time."""


class ResultLink(BaseOperatorLink):  # type: ignore[misc]
    """A button on the page of a task, which opens what the task has made."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """What the button says."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the address."""
        return f"_link_{self._name.lower()}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, as soon as the task has run; empty if a browser cannot open it."""
        return str(operator.links.get(self._name, ""))


class FlowOperator(BaseOperator):  # type: ignore[misc]
    """Runs one task of a pipeline; its XCom says what came of it, e.g. the run and its result.

    A retry resumes the run that has failed. Whatever ends the task ends the flow, too.
    """

    template_fields = ("options",)
    operator_extra_links = (ResultLink("Run"), ResultLink("Card"), ResultLink("Marker"))
    ui_color = "#e0ecf4"

    def __init__(
        self,
        *,
        pipeline: list[str],
        node: str,
        graph: str,
        options: Mapping[str, str],
        env: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.node = node
        self.graph = graph
        self.options = dict(options)
        self.env = dict(env or {})
        self.links: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        """Run the task to its end, and return what it has made."""
        python = ROOT / ".venv" / "bin" / "python"
        if not python.exists():
            raise AirflowFailException(
                f"there is no {python}: python3 noxfile.py -s setup makes it"
            )
        task, run = context["ti"], context["dag_run"]
        declared = {*self.options, *self.dag.params}
        if unknown := sorted({*(run.conf or {})} - declared):
            has = f"it has {', '.join(sorted(declared))}" if declared else "it has none"
            raise AirflowFailException(f"the DAG has no parameter {', '.join(unknown)}; {has}")
        with tempfile.TemporaryDirectory(prefix="airflow-") as folder:
            result = Path(folder, "result.json")
            command = [
                *(str(python), "-m", f"{PACKAGE}.runtime", "node"),
                *("--node", self.node, "--graph", self.graph),
                *("--by", f"{task.dag_id}/{task.run_id}", "--task", task.task_id),
                *("--try", str(task.try_number), "--instance", str(task.id)),
                *("--result", str(result), "--", *self.pipeline),
                *filter(None, self.options.values()),
            ]
            exit_code, last = self._run(command)
            if exit_code:
                kind = AirflowFailException if exit_code == MISTAKE else AirflowException
                raise kind(last or f"exit code {exit_code}")
            made = json.loads(result.read_text(encoding="utf-8"))
        self.links = {
            "Run": made.get("page", ""),
            "Card": _address(next(iter(made.get("cards", [])), "")),
            "Marker": _address(made.get("marker", "")),
        }
        for each in self.outlets:
            context["outlet_events"][each].extra = {
                name: made[name] for name in ("run", "marker") if name in made
            }
        return made

    def _run(self, command: list[str]) -> tuple[int, str]:
        """Run the command, log its lines, and return its exit code and the last line of its own."""
        self.log.info("%s", " ".join(command))
        supervisor = ROOT / PACKAGE / "runtime" / "process" / "supervisor.py"
        lifeline, end = os.pipe()  # whatever ends this process closes `end`
        last = ""
        try:
            self._process = subprocess.Popen(
                [command[0], "-I", "-S", str(supervisor), str(lifeline), str(GRACE), "0", *command],
                cwd=ROOT,
                env=_environment() | self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                pass_fds=[lifeline],
            )
            os.close(lifeline)
            for line in self._process.stdout or ():
                self.log.info("%s", line.rstrip())
                if line.startswith(("run: ", "node: ")):
                    last = line.strip()
            return self._process.wait(), last
        finally:
            os.close(end)
            if self._process:
                with contextlib.suppress(subprocess.TimeoutExpired):  # Airflow kills this process
                    self._process.wait(GRACE)

    def on_kill(self) -> None:
        """Stop the flow, as "mark failed" and a time limit want it."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


def _address(file: str) -> str:
    """Where a browser finds a run's file on this machine: `nox -s airflow` shows such."""
    folder, path = os.environ.get(f"{PACKAGE.upper()}_FILES"), Path(file)
    if not folder or not path.is_relative_to(ROOT / ".metaflow"):
        return ""
    return f"{folder}/{path.relative_to(ROOT / '.metaflow').as_posix()}"


def _environment() -> dict[str, str]:
    """The variables of this process, without Airflow's own, which may have secrets."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW")) and name not in OF_ITS_ENVIRONMENT
    }


def flow_tasks(graph: str, **kwargs: Any) -> dict[str, FlowOperator]:
    """The tasks of the graph, by their names, in the DAG around the call and in Luigi's order.

    The keyword arguments are those of each task, such as `retries` or `env`. Each task of a flow
    updates the asset of its name.
    """
    read = _read(graph)
    names = "\n".join(sorted(node["name"] for node in read["nodes"]))
    options = {name: _option(name, each) for name, each in read["parameters"].items()}
    made: dict[str, FlowOperator] = {}
    for node in read["nodes"]:
        outlets = [_asset(graph, node["name"])] if node["flow"] else []
        made[node["name"]] = FlowOperator(
            task_id=node["name"],
            pipeline=read["pipeline"],
            node=node["name"],
            graph=hashlib.sha256(names.encode()).hexdigest()[:16],
            options=options,
            doc_md=node["doc"],
            outlets=outlets,
            **kwargs,
        )
        made[node["name"]].set_upstream([made[name] for name in node["requires"]])
    return made


def params(graph: str) -> dict[str, Param]:
    """What the form of the DAG asks for, when somebody starts it: `DAG(params=params("co2"))`."""
    made = {}
    for name, each in _read(graph)["parameters"].items():
        schema, description = dict(each["schema"]), each["description"]
        if moment := each.get("moment"):
            schema["type"] = ["null", "string"]
            if moment == "%Y-%m-%d":
                schema["format"] = "date"  # the form shows a calendar
            description = f"{description} (default: the date of the run, {moment})".strip()
        made[name] = Param(each.get("default"), description=description or None, **schema)
    return made


def asset(graph: str, node: str) -> Asset:
    """What a task of a flow updates: `DAG(schedule=[asset("co2", "ReportCo2")])` runs after it."""
    flows = [each["name"] for each in _read(graph)["nodes"] if each["flow"]]
    if node not in flows:
        raise ValueError(f"{graph} has no flow's task {node!r}; it has {', '.join(flows)}")
    return _asset(graph, node)


def _asset(graph: str, node: str) -> Asset:
    return Asset(f"{PACKAGE}/{graph}/{node}")


def _option(name: str, described: Mapping[str, Any]) -> str:
    """A template of the option for the parameter; it is empty where there is no value."""
    flag, value = f"--{name.replace('_', '-')}", f"params.get('{name}')"
    if moment := described.get("moment"):
        date = "(dag_run.logical_date or dag_run.run_after).astimezone(dag.timezone)"
        return _template(f"'{flag}=' ~ ({value} or {date}.strftime('{moment}'))")
    is_text = "string" in described["schema"]["type"]
    if described.get("is_switch"):
        return _template(f"'{flag}' if {value} else ''")
    text = value if is_text else f"({value} | tojson)"
    return _template(f"'{flag}=' ~ {text} if {value} is not none else ''")


def _template(expression: str) -> str:
    return "{" * 2 + f" {expression} " + "}" * 2


def _read(graph: str) -> dict[str, Any]:
    file = DAGS / "graphs" / f"{graph}.json"
    try:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = f"nox -s graph -- {graph}_tasks.py writes it"
        raise ValueError(f"{file}: {reason}; {hint}") from None
    return read
