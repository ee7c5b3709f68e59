"""Settings: which source wins, and what the message for a wrong one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runtime import SettingsError
from runtime import settings as module
from runtime.settings import MetaflowSettings, Settings, load

PREFIX = "MY_PIPELINES__"


class Sources:
    """The folder of `.env`, and the folder of the YAML files in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config"

    def load(self, **variables: str) -> Settings:
        environ = {PREFIX + name: value for name, value in variables.items()}
        return load(self.root, self.config, environ)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setattr(module, "PREFIX", PREFIX)  # here the package's name is not a name yet
    (tmp_path / "config").mkdir()
    return Sources(tmp_path)


def test_without_any_source_every_setting_has_its_default(sources: Sources) -> None:
    assert sources.load() == Settings(env="dev", flow_tag="dev", runner="process", timeout=None)


def test_each_source_beats_the_one_before(sources: Sources) -> None:
    (sources.config / "base.yaml").write_text("flow_tag: base\ntimeout: 1\n")
    assert sources.load().flow_tag == "base"
    (sources.config / "dev.yaml").write_text("flow_tag: file of dev\n")
    assert sources.load().flow_tag == "file of dev"
    (sources.root / ".env").write_text(f"{PREFIX}FLOW_TAG=dotenv\n")
    assert sources.load().flow_tag == "dotenv"
    assert sources.load(FLOW_TAG="variable").flow_tag == "variable"
    assert sources.load(FLOW_TAG="variable").timeout == 1, "what is not overridden stays"


def test_the_environment_names_the_second_file_and_the_tag(sources: Sources) -> None:
    (sources.config / "production.yaml").write_text("timeout: 60\n")
    loaded = sources.load(ENV="production")
    assert (loaded.env, loaded.flow_tag, loaded.timeout) == ("production", "production", 60)
    (sources.root / ".env").write_text(f"{PREFIX}ENV=production\n")
    assert sources.load().timeout == 60, "the environment may be chosen in .env as well"


def test_variables_reach_every_level(sources: Sources) -> None:
    (sources.config / "base.yaml").write_text("metaflow:\n  profile: team\n")
    loaded = sources.load(METAFLOW__WITH="[retry, batch]", TIMEOUT="2.5")
    assert loaded.metaflow == MetaflowSettings(profile="team", with_=("retry", "batch"))
    assert loaded.timeout == 2.5


def test_an_empty_variable_sets_nothing(sources: Sources) -> None:
    assert sources.load(TIMEOUT="", ENV="") == Settings(flow_tag="dev")


@pytest.mark.parametrize("text", ["# nothing yet\n", "metaflow:\n#  profile: team\n"])
def test_an_empty_file_or_section_sets_nothing(sources: Sources, text: str) -> None:
    (sources.config / "base.yaml").write_text(text)
    assert sources.load() == Settings(flow_tag="dev")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("timout: 3\n", ["timout: there is no such setting; did you mean timeout?", "hint: the"]),
        ("metaflow:\n  profil: x\n", ["metaflow.profil: ", "did you mean profile?"]),
        ("timeout: soon\n", ["timeout: Expected `float | null`, got `str`"]),
        ("timeout: '60'\n", ["timeout: ", "got `str`"]),
        ("timeout: 0\n", ["timeout: ", "> 0"]),
        ("runner: rocket\n", ["runner: ", "rocket", "'process' or 'container'"]),
        ("metaflow:\n  with: retry\n", ["metaflow.with: Expected `array`"]),
        ("- a\n", ["key: value"]),
        ("a: [\n", ["not YAML"]),
        ("flow_tag: 2026-02-30\n", ["not YAML: day "]),
        ("timeout: !!float soon\n", ["not YAML"]),
        ("timeout: !!timestamp soon\n", ["not YAML"]),
        ("env: production\n", [f"hint: set {PREFIX}ENV"]),
    ],
)
def test_a_wrong_file_is_named_with_the_key_and_the_expected_value(
    sources: Sources, text: str, parts: list[str]
) -> None:
    (sources.config / "base.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        sources.load()
    assert [part for part in ["base.yaml", *parts] if part not in str(error.value)] == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TIMOUT", "3", "did you mean timeout?"),
        ("TIMEOUT", "soon", "timeout: Expected `float | null`"),
        ("METAFLOW__WITH", "[retry", "not YAML"),
        ("FLOW_TAG", "[2026-02-30]", "not YAML"),
    ],
)
def test_a_wrong_variable_is_named(sources: Sources, name: str, value: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name}.*{re.escape(reason)}"):
        sources.load(**{name: value})


def test_a_wrong_line_of_dotenv_is_named_with_the_file(sources: Sources) -> None:
    (sources.root / ".env").write_text(f"{PREFIX}TIMEOUT=soon\n")
    with pytest.raises(SettingsError, match=rf"/\.env: {PREFIX}TIMEOUT: timeout: Expected"):
        sources.load()
    (sources.root / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match=r"/\.env is not UTF-8"):
        sources.load()


def test_for_an_environment_without_a_file_the_existing_ones_are_named(sources: Sources) -> None:
    (sources.config / "production.yaml").touch()
    with pytest.raises(SettingsError, match=r"'prodution'.*prodution\.yaml\n.*: dev, production$"):
        sources.load(ENV="prodution")
