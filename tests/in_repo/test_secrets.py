"""A secret reaches a flow by its name, and is in nothing that a run leaves or shows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sales_pipelines.runtime import PipelineError, paths, secret, temporary_root

from .conftest import Pipeline, start

# It says whether it has the secret, and who else can see it.
FLOW = """
import hashlib, subprocess

from metaflow import FlowSpec, Parameter, secrets, step

from sales_pipelines.runtime import secret, talk_to_luigi


@talk_to_luigi
class SecretFlow(FlowSpec):
    key = Parameter("key", default="SHOP_TOKEN")

    {decorator}
    @step
    def start(self):
        token = secret(self.key)
        shown = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True)
        self.seen = [hashlib.sha256(token.encode()).hexdigest(), token in shown.stdout]
        self.next(self.end)

    @step
    def end(self):
        self.luigi_result = self.seen


if __name__ == "__main__":
    SecretFlow()
"""

SECRET = "planted-" + "sécret"
OPTIONS = '{"env_vars": {"SHOP_TOKEN": "x" * 9}}'
FETCHED = f'@secrets(sources=[{{"type": "inline", "id": "x", "options": {OPTIONS}}}])'


def run(pipeline: Pipeline, exit_code: int = 0) -> str:
    running = start(pipeline.root, "run", "secret.py")
    output, _ = running.communicate(timeout=120)
    assert running.returncode == exit_code, output
    return output


@pytest.mark.parametrize("is_in_dotenv", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_secret_from_the_environment_or_dotenv_shows_nowhere(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, is_in_dotenv: bool
) -> None:
    pipeline.add_file("secret.py", FLOW.format(decorator=""))
    if is_in_dotenv:
        (pipeline.root / ".env").write_text(f"SHOP_TOKEN={SECRET}\n")
    else:
        monkeypatch.setenv("SHOP_TOKEN", SECRET)
    output = run(pipeline)
    assert f"- {hashlib.sha256(SECRET.encode()).hexdigest()}\n  - false\n" in output
    assert SECRET not in output
    written = [path for path in pipeline.root.rglob("*") if path.is_file() and path.name != ".env"]
    assert any("luigi" in path.parts for path in written), "the marker is among them"
    assert not [path for path in written if SECRET in str(path)]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_secret_that_metaflow_fetches_is_found_by_its_name(pipeline: Pipeline) -> None:
    pipeline.add_file("secret.py", FLOW.format(decorator=FETCHED))
    assert hashlib.sha256(b"x" * 9).hexdigest() in run(pipeline)


@pytest.mark.parametrize("dotenv", ["", "SHOP_TOKEN=\n"])
def test_a_missing_secret_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dotenv: str
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "")
    (tmp_path / ".env").write_text(dotenv)
    with (
        temporary_root(tmp_path),
        pytest.raises(
            PipelineError, match=r"no secret SHOP_TOKEN .*\.env\nhint: add SHOP_TOKEN=… to \.env"
        ),
    ):
        secret("SHOP_TOKEN")


def test_the_environment_has_precedence_over_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("SHOP_TOKEN=from-dotenv\nSHOP_OTHER=from-dotenv\n")
    monkeypatch.setenv("SHOP_TOKEN", "from-the-environment")
    assert (secret("SHOP_TOKEN"), secret("SHOP_OTHER")) == ("from-the-environment", "from-dotenv")
