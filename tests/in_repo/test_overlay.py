"""A flow's own requirements: real packages, by the real uv."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path

import luigi
import pytest
from sales_pipelines.runtime import MetaflowTask, RequirementsError, paths
from sales_pipelines.runtime.packages.overlay import MADE_FROM, environment_for, overlay
from sales_pipelines.runtime.store.files import locked

from .conftest import Pipeline

ANOTHER_PROCESS = """
import sys
from pathlib import Path
from sales_pipelines.runtime import paths
from sales_pipelines.runtime.packages import overlay

paths.ROOT = Path(sys.argv[1])
paths.FLOWS = paths.ROOT / "flows"
print(overlay.overlay(paths.FLOWS / "small.py"))
"""


def run(task: luigi.Task) -> bool:
    return bool(luigi.build([task], local_scheduler=True, log_level="WARNING"))


def require(pipeline: Pipeline, text: str, folder: str = "") -> Path:
    """A flow's file that has this `requirements.txt` beside it."""
    path = pipeline.add_flow(f"{folder}small.py")
    pipeline.add_file(f"{folder}requirements.txt", text)
    return pipeline.flows / path


def overlays(pipeline: Pipeline) -> list[Path]:
    """The overlays, unfinished ones included."""
    return [path for path in pipeline.root.glob(".metaflow/overlays/*") if path.is_dir()]


def packages(folder: Path | None) -> list[str]:
    """The packages in an overlay, as its own file lists them."""
    assert folder
    names: list[str] = json.loads((folder / MADE_FROM).read_text())["packages"]
    return names


def use_uv(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, then: str) -> None:
    """Run the real uv, and a shell command after it has installed."""
    program = pipeline.root / "uv"
    uv = os.environ.get("UV") or shutil.which("uv")
    program.write_text(f'#!/bin/sh\n"{uv}" "$@" || exit\ncase "$*" in *--target*) {then};; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("UV", str(program))


def use_no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")


def another_process(pipeline: Pipeline) -> subprocess.Popen[str]:
    """Another process that wants the overlay of small.py."""
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(pipeline.root)]
    return subprocess.Popen(command, cwd=paths.PACKAGE.parent, stdout=subprocess.PIPE, text=True)


def test_a_flow_and_its_steps_see_their_packages_and_the_repo_does_not(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(str(package.metadata["Name"]) for package in distributions())
    path = pipeline.add_flow(
        "group/small.py",
        start="self.seen = cowsay.__version__",
        end="import os\nself.luigi_result = [self.seen, cowsay.__version__, "
        "os.environ['PYTHONPATH']]",
        talks=True,
    )
    file = pipeline.flows / path
    file.write_text("import cowsay\n" + file.read_text())
    pipeline.add_file("group/requirements.txt", "cowsay==6.0  # prints a cow\n")
    monkeypatch.setenv("PYTHONPATH", f"/from/outside{os.pathsep}{os.environ['PYTHONPATH']}")
    task = MetaflowTask(path)
    assert run(task)
    first, last, python_path = task.output().result
    assert (first, last) == ("6.0", "6.0")
    assert python_path.split(os.pathsep)[:2] == [str(overlays(pipeline)[0]), "/from/outside"]
    assert find_spec("cowsay") is None
    assert sorted(str(package.metadata["Name"]) for package in distributions()) == before
    line = "group/small.py | making the environment of flows/group/requirements.txt, once"
    assert line in capfd.readouterr().out.splitlines()
    assert task.output().marker.packages == ["cowsay==6.0"]


@pytest.mark.parametrize("text", ["cowsay>=6\n", "cowsay\nmsgspec\n", "# nothing\n", None])
def test_the_marker_names_the_version_of_an_unpinned_requirement(
    pipeline: Pipeline, text: str | None
) -> None:
    path = pipeline.add_flow()
    if text is not None:
        pipeline.add_file("requirements.txt", text)
    task = MetaflowTask(path)
    assert run(task)
    versions = packages(overlay(pipeline.flows / path)) if text and "cowsay" in text else []
    assert task.output().marker.packages == versions
    assert all(re.fullmatch(r"cowsay==6\.[0-9.]+", version) for version in versions)


PROGRAMS = """
import os, shutil, subprocess
self.programs = {name: shutil.which(name) for name in ("python", "cowsay", "luigi", "sh")}
self.moo = subprocess.run(["cowsay", "-t", "moo"], capture_output=True, text=True).stdout
"""

IN_PARALLEL = """
from metaflow import FlowSpec, current, parallel, step

from sales_pipelines.runtime import talk_to_luigi


@talk_to_luigi
class ParallelFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.work, num_parallel=2)

    @parallel
    @step
    def work(self):
        self.node = current.parallel.node_index
        self.next(self.join)

    @step
    def join(self, inputs):
        self.nodes = sorted(each.node for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        self.luigi_result = self.nodes


if __name__ == "__main__":
    ParallelFlow()
"""


@pytest.mark.parametrize(
    "path", ["/usr/bin:/bin", pytest.param("", marks=pytest.mark.thorough), None]
)
def test_programs_of_the_overlay_and_then_of_the_environment_come_first_on_path(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    monkeypatch.setenv("UV", str(uv))
    if path is None:  # as under `env -i`
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
    end = "self.luigi_result = [self.programs, self.moo]"
    pipeline.add_flow("group/small.py", start=PROGRAMS, end=end, talks=True)
    pipeline.add_file("group/requirements.txt", "cowsay==6.1\n")
    task = MetaflowTask("group/small.py")
    assert run(task)
    programs, moo = task.output().result
    environment = Path(sys.executable).parent
    assert programs["cowsay"] == str(overlays(pipeline)[0] / "bin" / "cowsay")
    assert programs["python"] == str(environment / "python")
    assert programs["luigi"] == str(environment / "luigi")
    assert programs["sh"], "the system's programs are still there"
    assert "moo" in moo


def test_parallel_steps_find_python_with_the_path_of_cron(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    task = MetaflowTask(pipeline.add_file("parallel.py", IN_PARALLEL))
    assert run(task)
    assert task.output().result == [0, 1]


@pytest.mark.parametrize("text", [None, "", "# later: cowsay\n\n"])
def test_a_flow_without_requirements_has_no_overlay(pipeline: Pipeline, text: str | None) -> None:
    file = pipeline.flows / pipeline.add_flow() if text is None else require(pipeline, text)
    assert overlay(file) is None
    assert environment_for(file) == {}
    assert overlays(pipeline) == []


def test_packages_of_the_repo_are_not_installed_again(pipeline: Pipeline) -> None:
    folder = overlay(require(pipeline, "msgspec\nrequests[socks]==" + version("requests")))
    assert folder
    assert [package.partition("==")[0] for package in packages(folder)] == ["pysocks"]
    assert not list(folder.glob("requests*"))
    assert not list(folder.glob("msgspec*"))


@pytest.mark.parametrize(
    ("requirement", "package"),
    [("msgspec<0.1", "msgspec"), ("numpy<2", "numpy"), ("aiobotocore==2.5.0", "botocore")],
)
def test_a_conflict_names_the_requirement_and_the_repos_version(
    pipeline: Pipeline, requirement: str, package: str
) -> None:
    file = require(pipeline, f"cowsay\n{requirement}\n", "group/")
    with pytest.raises(RequirementsError) as error:
        MetaflowTask("group/small.py").run()
    message = str(error.value)
    first, *_, hint = message.splitlines()
    assert first.startswith("flows/group/requirements.txt cannot be installed: No solution found")
    assert f"{package}=={version(package)}" in first
    assert f"you require {requirement}" in message
    assert hint.startswith("hint: change the requirement, or the repo's dependency in pyproject")
    assert overlays(pipeline) == []
    file.with_name("requirements.txt").write_text("cowsay\n")
    assert overlay(file)


def test_an_editable_package_is_not_replaced_from_an_index(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = pipeline.root / "checkout" / "cowsay-1.dist-info"
    checkout.mkdir(parents=True)
    (checkout / "direct_url.json").write_text('{"url": "", "dir_info": {"editable": true}}')
    monkeypatch.syspath_prepend(str(checkout.parent))
    reason = (
        r"^flows/requirements\.txt cannot be installed: "
        r"it would change the repo's cowsay \(editable\) to cowsay==6\.1\n"
        r"hint: change the requirement, or the repo's dependency"
    )
    with pytest.raises(RequirementsError, match=reason):
        overlay(require(pipeline, "cowsay>5,<7"))


def test_an_overlay_is_made_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    file = require(pipeline, "cowsay==6.1\n")
    folder = overlay(file)
    assert packages(folder) == ["cowsay==6.1"]
    assert folder
    os.utime(folder / MADE_FROM, (0, 0))
    use_no_uv(monkeypatch)
    assert overlay(file) == folder
    assert time.time() - (folder / MADE_FROM).stat().st_mtime < 60


def test_equal_requirements_share_an_overlay_and_others_do_not(pipeline: Pipeline) -> None:
    first = overlay(require(pipeline, "cowsay==6.1\n"))
    assert overlay(require(pipeline, "# the same\ncowsay==6.1", "group/")) == first
    second = overlay(require(pipeline, "cowsay==6.0\n"))
    assert second != first
    assert packages(second) == ["cowsay==6.0"]
    assert packages(first) == ["cowsay==6.1"]


def test_a_repo_with_other_versions_has_other_overlays(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = require(pipeline, "cowsay==6.1\n")
    first = overlay(file)
    (pipeline.root / "more" / "tomli_w-1.0.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(pipeline.root / "more"))
    assert overlay(file) != first


def test_included_files_count_as_part_of_the_file(pipeline: Pipeline) -> None:
    pipeline.add_file("shared/base.txt", "-r more.txt\n--constraint limits.txt\n")
    pipeline.add_file("shared/more.txt", "cowsay\n")
    limits = pipeline.add_file("shared/limits.txt", "cowsay<6.1\n")
    file = require(pipeline, "-r ../shared/base.txt\n", "group/")
    first = overlay(file)
    assert packages(first) == ["cowsay==6.0"]
    pipeline.add_file(limits, "cowsay==6.1\n")
    assert packages(overlay(file)) == ["cowsay==6.1"]
    (pipeline.flows / limits).unlink()
    with pytest.raises(RequirementsError, match=r"base\.txt: there is no flows/shared/limits\.txt"):
        overlay(file)


def test_a_folder_of_wheels_is_the_one_beside_the_file(pipeline: Pipeline) -> None:
    for number in ("1", "2"):
        info = f"ours-{number}.dist-info"
        wheel = pipeline.flows / number / "wheels" / f"ours-{number}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("ours.py", "")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: ours\nVersion: {number}\n"
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        file = require(pipeline, "--no-index\n--find-links wheels\nours\n", f"{number}/")
        assert packages(overlay(file)) == [f"ours=={number}"]


def test_hashes_are_compared(pipeline: Pipeline) -> None:
    digest = "274b1e6fc1b966d53976333eb90ac94cb07a450a700b455af9fbdf882244b30a"
    wheel = f"cowsay==6.1 \\\n    --hash=sha256:{digest}\n"
    assert packages(overlay(require(pipeline, wheel))) == ["cowsay==6.1"]
    with pytest.raises(
        RequirementsError, match=r"(?s)requirements\.txt .*Hash mismatch.*cowsay==6\.1"
    ):
        overlay(require(pipeline, wheel.replace("274b", "0000")))


def test_two_processes_make_an_overlay_once(pipeline: Pipeline) -> None:
    require(pipeline, "cowsay==6.1\n")
    both = [another_process(pipeline), another_process(pipeline)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert len({text.splitlines()[-1] for text in printed}) == 1
    assert "".join(printed).count("making the environment") == 1
    assert packages(Path(printed[0].splitlines()[-1])) == ["cowsay==6.1"]


def test_a_process_that_waits_for_another_says_so(pipeline: Pipeline) -> None:
    folder = overlay(require(pipeline, "cowsay==6.1\n"))
    assert folder
    (folder / MADE_FROM).unlink()
    with locked(folder.with_suffix(".lock"), print):
        waiting = another_process(pipeline)
        assert waiting.stdout
        assert f"waiting for process {os.getpid()}, " in waiting.stdout.readline()
    output, _ = waiting.communicate(timeout=120)
    assert output.splitlines()[-1] == str(folder)
    assert not list(folder.parent.glob("*.lock"))


def test_what_a_kill_in_the_middle_leaves_is_not_used_and_is_deleted(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = require(pipeline, "cowsay==6.1\n")
    with monkeypatch.context() as patch:
        use_uv(patch, pipeline, then="kill -9 $(ps -o ppid= -p $PPID)")
        assert another_process(pipeline).wait(timeout=120) == -9
    (unfinished,) = overlays(pipeline)
    assert list(unfinished.rglob("cowsay"))
    assert packages(overlay(file)) == ["cowsay==6.1"]
    assert overlays(pipeline) == [overlay(file)]


def test_a_failure_in_the_middle_leaves_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = require(pipeline, "cowsay==6.1\n")
    use_uv(monkeypatch, pipeline, then="echo 'error: No space left on device'; exit 2")
    with pytest.raises(RequirementsError, match="No space left on device"):
        overlay(file)
    assert overlays(pipeline) == []


def test_an_overlay_that_was_partly_deleted_is_made_again(pipeline: Pipeline) -> None:
    file = require(pipeline, "cowsay==6.1\n")
    folder = overlay(file)
    assert folder
    (folder / MADE_FROM).unlink()
    assert overlay(file) == folder
    assert packages(folder) == ["cowsay==6.1"]


def test_without_uv_the_error_says_how_to_get_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = require(pipeline, "cowsay\n")
    use_no_uv(monkeypatch)
    with pytest.raises(
        RequirementsError, match=r"flows/requirements\.txt .*no uv on PATH\nhint: pipx"
    ):
        overlay(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "iniconfig\ncowsay = 3\n",
            r"cannot .*comparison operator.*cowsay = 3\n.*correct the file",
        ),
        (
            "no-such-package-anywhere",
            r"cannot .*no-such-package-anywhere was not found in the pack",
        ),
        ("cowsay==99\n", r"cannot .*no version of cowsay==99 and you require cowsay==99"),
        ("./library\n", r"library is a path.*--find-links"),
        ("-e ./library\n", r"library is a path.*--find-links"),
        ("-r nowhere.txt\n", r": there is no flows/nowhere\.txt\n.*`-r nowhere\.txt`"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", " is not UTF-8"),
    ],
)
def test_what_cannot_be_installed_is_named(pipeline: Pipeline, text: str, message: str) -> None:
    project = '[project]\nname = "library"\nversion = "1"\n'
    pipeline.add_file("library/pyproject.toml", project)
    pipeline.add_file("library/library.py", "")
    file = require(pipeline, "")
    file.with_name("requirements.txt").write_text(text, encoding="latin-1")
    with pytest.raises(RequirementsError, match=rf"(?s)flows/requirements\.txt.*{message}"):
        overlay(file)
    assert overlays(pipeline) == []


def test_an_index_that_does_not_answer_is_named(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(
        RequirementsError, match=r"(?s)Failed to fetch: .*cowsay.*\nhint: check the .*network"
    ):
        overlay(require(pipeline, "cowsay\n"))
