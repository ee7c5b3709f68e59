"""Settings: which source wins, and what the message for a wrong one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runtime import settings as module
from runtime.errors import SettingsError
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


@pytest.mark.parametrize(
    ("text", "length"), [("90", 90), ("1h", 3600), ("1.5h", 5400), ("2w", 14 * 86400)]
)
def test_a_time_is_read_from_every_source(sources: Sources, text: str, length: float) -> None:
    assert sources.load(TIMEOUT=text).timeout == length
    assert sources.load(S3_TIMEOUT=text).s3_timeout == length
    (sources.root / ".env").write_text(f"{PREFIX}TIMEOUT={text}\n")
    assert sources.load().timeout == length
    (sources.root / ".env").unlink()
    (sources.config / "base.yaml").write_text(f"timeout: {text}\n")
    assert sources.load().timeout == length


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MY_PIPELINES_ENV", "ENV"),
        ("MY_PIPELINES_TIMEOUT", "TIMEOUT"),
        ("MY_PIPELINES_FLOW_TAG", "FLOW_TAG"),
        ("MY_PIPELINES_METAFLOW_PROFILE", "METAFLOW__PROFILE"),
        ("MY_PIPELINES_CONTAINER__INDEX_URL", "CONTAINER__INDEX_URL"),
    ],
)
def test_a_variable_with_too_few_underscores_is_named(
    sources: Sources, name: str, meant: str
) -> None:
    rule = f"{name} sets nothing; did you mean {PREFIX}{meant}\\?"
    with pytest.warns(UserWarning, match=f"^{rule}"):
        load(sources.root, sources.config, {name: "1h"})
    (sources.root / ".env").write_text(f"{name}=1h\n")
    with pytest.warns(UserWarning, match=rf"/\.env: {rule}"):
        assert sources.load().timeout is None


@pytest.mark.parametrize("name", ["MY_PIPELINES", "MY_PIPELINES_URL", "MY_PIPELINESENV", "ENV"])
def test_other_variables_are_not_mentioned(
    sources: Sources, recwarn: pytest.WarningsRecorder, name: str
) -> None:
    assert load(sources.root, sources.config, {name: "x"}).env == "dev"
    assert not recwarn.list


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
        ("timeout: 1 hour\n", ["timeout: ", "got `str`", "; it is seconds, or a number and s, m,"]),
        ("timeout: 0\n", ["timeout: ", "> 0"]),
        ("s3_timeout: soon\n", ["s3_timeout: ", "got `str`", "; it is seconds, or a number"]),
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
        ("TIMEOUT", "-1h", "timeout: Expected `float` > 0.0"),
        ("METAFLOW_PROFILE", "prod", f"did you mean {PREFIX}METAFLOW__PROFILE?"),
        ("FLOW__TAG", "x", f"did you mean {PREFIX}FLOW_TAG?"),
        ("_ENV", "production", f"did you mean {PREFIX}ENV?"),
        ("METAFLOW__WITH", "[retry", "not YAML"),
        ("FLOW_TAG", "[2026-02-30]", "not YAML"),
    ],
)
def test_a_wrong_variable_is_named(sources: Sources, name: str, value: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name}.*{re.escape(reason)}"):
        sources.load(**{name: value})


@pytest.mark.parametrize(
    "text",
    [
        "database:\n  password: planted\n",
        "database:\n  url: postgresql://etl:planted@db.example.org/sales\n",
        "database: {url: 'mysql://etl:@db.example.org/sales'}\n",
    ],
)
def test_a_password_in_a_file_that_git_tracks_is_refused(sources: Sources, text: str) -> None:
    (sources.config / "base.yaml").write_text(text)
    with pytest.raises(SettingsError) as refusal:
        sources.load()
    message = str(refusal.value)
    assert message.startswith(f"{sources.config / 'base.yaml'}: database has a password, and git")
    assert message.endswith(f"hint: put it into .env, as {PREFIX}DATABASE__PASSWORD")
    assert "planted" not in message


def test_a_password_comes_from_dotenv_or_a_variable(sources: Sources) -> None:
    url = "postgresql://etl@db.example.org:5432/sales_{flow_tag}"
    (sources.config / "base.yaml").write_text(f"database:\n  url: {url}\n")
    (sources.root / ".env").write_text(f"{PREFIX}DATABASE__PASSWORD=from-dotenv\n")
    assert sources.load().database.password == "from-dotenv"
    loaded = sources.load(DATABASE__PASSWORD="from-a-variable").database
    assert (loaded.url, loaded.password, loaded.shared) == (url, "from-a-variable", False)


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
