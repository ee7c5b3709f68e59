"""Settings: which source wins, and what a wrong one is told."""

from __future__ import annotations

import re

import pytest
from sales_pipelines.runtime import SettingsError
from sales_pipelines.runtime.settings import (
    PREFIX,
    MetaflowSettings,
    Settings,
    load,
)

from .conftest import Pipeline


def loaded(pipeline: Pipeline, **variables: str) -> Settings:
    environ = {PREFIX + name: value for name, value in variables.items()}
    return load(pipeline.root, pipeline.config, environ)


def test_without_any_source_every_setting_has_its_default(pipeline: Pipeline) -> None:
    assert loaded(pipeline) == Settings(env="dev", flow_tag="dev", runner="process", timeout=None)


def test_each_source_beats_the_one_before(pipeline: Pipeline) -> None:
    (pipeline.config / "base.yaml").write_text("flow_tag: base\ntimeout: 1\n")
    assert loaded(pipeline).flow_tag == "base"
    (pipeline.config / "dev.yaml").write_text("flow_tag: file of dev\n")
    assert loaded(pipeline).flow_tag == "file of dev"
    (pipeline.root / ".env").write_text(f"{PREFIX}FLOW_TAG=dotenv\n")
    assert loaded(pipeline).flow_tag == "dotenv"
    assert loaded(pipeline, FLOW_TAG="variable").flow_tag == "variable"
    assert loaded(pipeline, FLOW_TAG="variable").timeout == 1, "what is not overridden stays"


def test_the_environment_names_the_second_file_and_the_tag(pipeline: Pipeline) -> None:
    (pipeline.config / "production.yaml").write_text("timeout: 60\n")
    found = loaded(pipeline, ENV="production")
    assert (found.env, found.flow_tag, found.timeout) == ("production", "production", 60)
    (pipeline.root / ".env").write_text(f"{PREFIX}ENV=production\n")
    assert loaded(pipeline).timeout == 60, "the environment may be chosen in .env as well"


def test_variables_reach_every_level(pipeline: Pipeline) -> None:
    (pipeline.config / "base.yaml").write_text("metaflow:\n  profile: team\n")
    found = loaded(pipeline, METAFLOW__WITH="[retry, batch]", TIMEOUT="2.5")
    assert found.metaflow == MetaflowSettings(profile="team", with_=("retry", "batch"))
    assert found.timeout == 2.5


def test_an_empty_variable_says_nothing(pipeline: Pipeline) -> None:
    assert loaded(pipeline, TIMEOUT="", ENV="") == Settings(flow_tag="dev")


def test_an_empty_file_is_fine(pipeline: Pipeline) -> None:
    (pipeline.config / "base.yaml").write_text("# nothing yet\n")
    assert loaded(pipeline) == Settings(flow_tag="dev")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timout: 3\n", ["base.yaml", "timout is no setting", "did you mean timeout?"]),
        ("metaflow:\n  profil: x\n", ["base.yaml", "metaflow.profil", "did you mean profile?"]),
        ("timeout: soon\n", ["base.yaml", "timeout", "Expected `float | null`, got `str`"]),
        ("timeout: '60'\n", ["base.yaml", "timeout", "got `str`"]),
        ("timeout: 0\n", ["base.yaml", "timeout", "> 0"]),
        ("runner: rocket\n", ["base.yaml", "runner", "rocket", "'process' and 'container'"]),
        ("metaflow:\n  with: retry\n", ["base.yaml", "metaflow.with", "Expected `array`"]),
        ("- a\n", ["base.yaml", "key: value"]),
        ("a: [\n", ["base.yaml", "not YAML"]),
        ("env: production\n", ["base.yaml", f"{PREFIX}ENV"]),
    ],
)
def test_a_wrong_file_is_told_file_key_and_what_was_expected(
    pipeline: Pipeline, text: str, told: list[str]
) -> None:
    (pipeline.config / "base.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        loaded(pipeline)
    assert [part for part in told if part not in str(error.value)] == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TIMOUT", "3", "did you mean timeout?"),
        ("TIMEOUT", "soon", "timeout: Expected `float | null`"),
        ("METAFLOW__WITH", "[retry", "not YAML"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    pipeline: Pipeline, name: str, value: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name}.*{re.escape(told)}"):
        loaded(pipeline, **{name: value})


def test_a_wrong_line_of_dotenv_is_told_with_the_file(pipeline: Pipeline) -> None:
    (pipeline.root / ".env").write_text(f"{PREFIX}TIMEOUT=soon\n")
    with pytest.raises(SettingsError, match=rf"/\.env: {PREFIX}TIMEOUT: timeout: Expected"):
        loaded(pipeline)
    (pipeline.root / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match=r"/\.env is not UTF-8"):
        loaded(pipeline)


def test_a_section_without_lines_is_fine(pipeline: Pipeline) -> None:
    (pipeline.config / "base.yaml").write_text("metaflow:\n#  profile: team\n")
    assert loaded(pipeline) == Settings(flow_tag="dev")


def test_an_environment_without_a_file_is_told_which_there_are(pipeline: Pipeline) -> None:
    (pipeline.config / "production.yaml").touch()
    with pytest.raises(SettingsError, match=r"'prodution'.*prodution\.yaml.*dev, production"):
        loaded(pipeline, ENV="prodution")
