"""MetaflowTask: real flows, run as they will be run."""

from __future__ import annotations

import datetime
import os
import subprocess
import time
from typing import Any

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser
from metaflow import Run
from sales_pipelines.runtime import (
    FlowFailedError,
    FlowNotFoundError,
    MetaflowTask,
    ParameterError,
    PipelineError,
    paths,
    process,
)
from sales_pipelines.runtime.flow.command_line import flags
from sales_pipelines.runtime.settings import PREFIX
from sales_pipelines.runtime.version import code

from .conftest import Pipeline, ends, mark_done


def run(task: luigi.Task) -> bool:
    return bool(luigi.build([task], local_scheduler=True, log_level="WARNING"))


def test_a_run_leaves_a_marker_that_says_what_ran(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(
        "group/small.py",
        parameters="n = Parameter('n', default=1)",
        end="self.luigi_result = 'ignored'",  # without talk_to_luigi
    )
    subprocess.run(["git", "init", "--quiet", "--initial-branch=6_co2", pipeline.root], check=True)
    subprocess.run(["git", "-C", pipeline.root, "add", "flows"], check=True)
    git = ["git", "-C", str(pipeline.root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "commit", "--quiet", "--message", "a flow"], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()

    task = MetaflowTask(path, flow_kwargs={"n": 2})
    assert not task.complete()
    assert run(task)
    assert task.complete()
    marker = task.output().marker
    name = f".metaflow/luigi/dev/group/small.py/{task.task_id}.json"
    assert task.output().path == str(pipeline.root / name)
    assert (marker.flow, marker.path, marker.parameters) == ("SmallFlow", path, {"n": 2})
    assert (marker.env, marker.flow_tag) == ("dev", "dev")
    assert (marker.branch, marker.commit) == ("6_co2", commit)
    assert (marker.resumed, marker.image, marker.result) == ([], None, None)
    assert marker.seconds > 0
    finished = datetime.datetime.fromisoformat(marker.finished)
    assert abs(finished.timestamp() - time.time()) < 60

    metaflow_run = task.output().run
    assert isinstance(metaflow_run, Run)
    assert metaflow_run.successful
    assert metaflow_run.pathspec == marker.pathspec
    expected = {"dev", "env:dev", f"version:{marker.version}", "branch:6_co2", f"commit:{commit}"}
    assert expected <= metaflow_run.user_tags


def test_a_flow_that_git_does_not_know_is_in_no_commit(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(pipeline.root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    monkeypatch.setattr(paths, "PACKAGE", pipeline.flows.parent / "package")
    paths.PACKAGE.mkdir()
    (pipeline.root / "pyproject.toml").touch()  # not of the package
    assert not str(code().commit).endswith("-dirty")
    (paths.PACKAGE / "new.py").touch()
    assert str(code().commit).endswith("-dirty")


def test_a_detached_head_is_no_branch(pipeline: Pipeline) -> None:
    git = ["git", "-C", str(pipeline.root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert code().commit is None
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    assert code().branch is not None
    (pipeline.root / "file").touch()
    subprocess.run([*git, "add", "file"], check=True)
    assert str(code().commit).endswith("-dirty")
    subprocess.run([*git, "checkout", "--quiet", "--detach"], check=True)
    assert code().branch is None


@pytest.mark.thorough
def test_options_before_run_reach_metaflow(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(start="import os\nself.seen = os.environ.get('SEEN')")
    options = {"with": ['environment:vars={"SEEN": "yes"}'], "quiet": True}
    task = MetaflowTask(path, preflow_kwargs=options)
    assert run(task)
    assert task.output().run.data.seen == "yes"


def test_lines_come_while_the_flow_runs(pipeline: Pipeline) -> None:
    seen: dict[str, float] = {}
    command = ["sh", "-c", "echo first; sleep 0.5; echo last >&2; exit 3"]
    code = process.run(
        command,
        cwd=pipeline.root,
        env=os.environ,
        timeout=None,
        on_line=lambda line: seen.update([(line, time.monotonic())]),
    )
    assert code == 3
    assert seen["last"] - seen["first"] > 0.4


def test_what_a_command_leaves_behind_is_stopped_and_not_waited_for(pipeline: Pipeline) -> None:
    started = time.monotonic()
    lines: list[str] = []
    code = process.run(
        ["sh", "-c", "sleep 60 & echo $!"],
        cwd=pipeline.root,
        env=os.environ,
        timeout=None,
        on_line=lines.append,
    )
    assert code == 0
    assert time.monotonic() - started < 30
    assert ends(int(lines[0]), within=10)


def test_processes_are_asked_before_they_are_killed(pipeline: Pipeline) -> None:
    lines: list[str] = []
    with pytest.raises(process.TimeLimitError):
        process.run(
            ["sh", "-c", "(trap 'sleep 0.3; echo clean; exit' TERM; while :; do sleep 0.1; done)"],
            cwd=pipeline.root,
            env=os.environ,
            timeout=1,
            on_line=lines.append,
        )
    assert "clean" in lines


@pytest.mark.parametrize(
    ("given", "length"), [("1h", 3600.0), ("90", 90.0), ("1.5m", 90.0), (2.5, 2.5), (None, None)]
)
def test_a_time_limit_is_seconds_or_has_a_unit(
    pipeline: Pipeline, given: Any, length: float | None
) -> None:
    path = pipeline.add_flow()
    assert MetaflowTask(path, timeout=given).timeout == length
    if isinstance(given, str):
        words = ("MetaflowTask", "--flow-path", path, "--timeout", given)
        with CmdlineParser.global_instance(words) as parser:
            assert parser.get_task_obj().timeout == length


def test_settings_reach_the_flow(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    (pipeline.root / ".env").write_text("FROM_DOTENV=passed on\n")
    monkeypatch.setenv(f"{PREFIX}METAFLOW__WITH", '["environment:vars={\\"SEEN\\": \\"yes\\"}"]')
    monkeypatch.setenv(f"{PREFIX}TIMEOUT", "90")
    path = pipeline.add_flow(
        talks=True,
        end="import os\nself.luigi_result = [os.environ['FROM_DOTENV'], os.environ['SEEN']]",
    )
    task = MetaflowTask(path)
    assert task.timeout == 90
    assert run(task)
    assert task.output().result == ["passed on", "yes"]


def test_metaflow_s_options_become_flags() -> None:
    values = {"quiet": True, "debug": False, "with": ["a", "b"], "datastore": "local"}
    assert flags(values, "preflow_kwargs") == [
        *("--quiet", "--with=a", "--with=b", "--datastore=local")
    ]


def test_after_the_time_limit_nothing_of_the_flow_is_left(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(
        start="""
        import os, pathlib, time
        pathlib.Path("step.pid").write_text(str(os.getpid()))
        time.sleep(60)
        """
    )
    pid = pipeline.root / "step.pid"
    for seconds in (2.5, 20):  # a busy machine may need more to come to the step
        task = MetaflowTask(path, timeout=seconds)
        with pytest.raises(FlowFailedError, match=rf"stopped after {seconds:g} seconds"):
            task.run()
        if pid.exists():
            break
    assert ends(int(pid.read_text()), within=10)
    assert not task.complete()


def test_nothing_speaks_for_a_forced_run_that_failed(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(start="raise ValueError")
    mark_done(MetaflowTask(path))
    assert MetaflowTask(path).complete()
    with pytest.raises(FlowFailedError):
        MetaflowTask(path, force=True).run()
    assert not MetaflowTask(path).complete()


@pytest.mark.parametrize("variables", [{"FLOW_TAG": "production"}, {"ENV": "production"}, {}])
def test_production_is_set_in_one_place(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    (pipeline.config / "production.yaml").touch()
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    path = pipeline.add_flow(
        talks=True, end="self.luigi_result = [self.production, self.test]", parameters=""
    )
    task = MetaflowTask(path) if variables else MetaflowTask(path, flow_tag="production")
    assert task.flow_tag == "production"
    assert "/luigi/production/small.py/" in task.output().path
    if not variables:
        assert run(task)
        assert task.output().result == [True, False]
        assert "production" in task.output().run.user_tags


class First(MetaflowTask):
    flow_path = "first.py"


class Second(MetaflowTask):
    flow_path = "second.py"

    def requires(self) -> First:
        return First(flow_tag=self.flow_tag)

    def parameters(self) -> dict[str, Any]:
        return {"seen": self.input().result["seen"] + 1, "length": len(self.input().run.data.rows)}


def test_a_chain_passes_results_and_runs_on(pipeline: Pipeline) -> None:
    pipeline.add_flow(
        "first.py",
        talks=True,
        start="self.rows = [1, 2, 3]",
        end="self.luigi_result = dict(seen=41)",
    )
    pipeline.add_flow(
        "second.py",
        talks=True,
        parameters="seen = Parameter('seen', type=int)\n    length = Parameter('length', type=int)",
        end="self.luigi_result = [self.seen, self.length]",
    )
    second = Second()
    assert run(second)
    assert second.output().result == [42, 3]
    assert second.output().marker.parameters == {"seen": 42, "length": 3}


@pytest.mark.parametrize(
    "path", ["../outside.py", "/etc/passwd", "a/../../outside.py", "./small.py", "missing.py", ""]
)
def test_a_path_that_is_no_flows_is_refused_before_anything_runs(
    pipeline: Pipeline, path: str
) -> None:
    pipeline.add_flow("small.py")
    (pipeline.root / "outside.py").touch()
    with pytest.raises(FlowNotFoundError, match=r"^flow_path"):
        MetaflowTask(path)


@pytest.mark.parametrize("tag", ["../elsewhere", "a/b", ".hidden", "a b", "-a"])
def test_a_tag_that_is_no_folder_s_name_is_refused(pipeline: Pipeline, tag: str) -> None:
    with pytest.raises(ParameterError, match=r"^flow_tag"):
        MetaflowTask(pipeline.add_flow(), flow_tag=tag)


def test_a_value_of_another_type_is_refused(pipeline: Pipeline) -> None:
    path = pipeline.add_flow()
    for name in ("flow_tag", "from_run", "runner"):
        with pytest.raises(ParameterError, match=rf"^{name} must be text, not 3"):
            MetaflowTask(path, **{name: 3})
    with pytest.raises(ParameterError, match=r"^flow_path must be text, not 3"):
        MetaflowTask(3)
    for value in ([1], 3, None):
        with pytest.raises(ParameterError, match=r"^preflow_kwargs must be Metaflow's options"):
            MetaflowTask(path, preflow_kwargs=value)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_time_limit_of_nothing_is_refused(pipeline: Pipeline, timeout: float) -> None:
    with pytest.raises(ParameterError, match=r"timeout must be more than 0 seconds"):
        MetaflowTask(pipeline.add_flow(), timeout=timeout)


def test_the_message_for_a_missing_flow_lists_the_flows(pipeline: Pipeline) -> None:
    pipeline.add_flow("group/small.py")
    pipeline.add_file("group/helpers.py", "X = 1\n")
    expected = r"there is no .*\nhint: the flows are group/small\.py$"
    with pytest.raises(FlowNotFoundError, match=expected):
        MetaflowTask("smal.py")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print('imported')\n", "has no flow"),
        ("class A:\n    pass\n\n\nA()\n", "has no flow"),
        ("class A(\n", "line 1"),
        ("A = 1\0\n", "null bytes"),
        ("# coding: latin-1\n# é\n", "has no flow"),
    ],
)
def test_a_file_without_a_flow_is_refused_and_not_run(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (pipeline.flows / "none.py").write_text(text, encoding="latin-1")
    task = MetaflowTask("none.py")
    with pytest.raises(FlowNotFoundError, match=reason):
        task.run()
    assert "imported" not in capfd.readouterr().out


def test_a_datastore_that_cannot_hold_markers_is_named(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = MetaflowTask(pipeline.add_flow())
    home = pipeline.root / "no-metaflow-config"
    home.mkdir()
    (home / "config.json").write_text('{"METAFLOW_DEFAULT_DATASTORE": "azure"}')
    with pytest.raises(PipelineError, match=r"is 'azure', .* local datastore or on S3"):
        task.complete()
    monkeypatch.setenv("METAFLOW_DEFAULT_DATASTORE", "local")
    assert not task.complete()


def test_a_profile_without_a_file_is_named(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}METAFLOW__PROFILE", "team")
    with pytest.raises(PipelineError, match=r"'team'.*config_team\.json"):
        MetaflowTask(pipeline.add_flow()).complete()


def test_the_repo_is_where_things_are() -> None:
    assert (paths.ROOT / "pyproject.toml").is_file()
    assert all(folder.is_dir() for folder in (paths.CONFIG, paths.FLOWS, paths.TASKS))
