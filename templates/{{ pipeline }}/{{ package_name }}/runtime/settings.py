"""Typed settings, from the weakest source to the strongest.

1. the defaults below;
2. `config/base.yaml`;
3. `config/ENV.yaml`, where ENV is the setting `env` (`dev`, unless 4 or 5 set it);
4. `.env` in the repo's root, which git ignores;
5. environment variables: the package's name in capitals, then `__` before each level, so
   `MY_PIPELINES__METAFLOW__PROFILE=prod` for `metaflow: {profile: prod}` of `my_pipelines`;
6. options of `nox -s run`, which set these variables.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import dotenv
import msgspec
import yaml

from . import paths
from .console import TIME, seconds
from .errors import SettingsError, did_you_mean

PREFIX = f"{paths.PACKAGE.name.upper()}__"


class MetaflowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Metaflow itself is set up for every flow."""

    profile: str | None = None
    """Name of a Metaflow profile (`METAFLOW_PROFILE`); None leaves Metaflow's own default."""

    with_: tuple[str, ...] = msgspec.field(default=(), name="with")
    """Decorators for every step (Metaflow's `--with`), e.g. `retry` or `batch`."""


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the building of images finds what it needs; none of this is stored in an image."""

    registry: str = ""
    """Where Python's image is, e.g. `registry.example.org/mirror`; by default on Docker Hub."""

    index_url: str = ""
    """Index that packages come from; by default the one that `uv.lock` names."""

    proxy: str = ""
    """Proxy to reach the index by, e.g. `http://proxy.example.org:3128`."""

    certificates: str = ""
    """File of the certificates to trust, in PEM format; relative to the repo's root."""


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a CurateTask finds its tables."""

    url: str = "sqlite:///databases/{flow_tag}.sqlite"
    """Its address, e.g. `postgresql://NAME@HOST/sales_{flow_tag}`; SQLite's file in the repo."""

    password: str = ""
    """The password for the address, which must not stand in a file that git tracks."""

    shared: bool = False
    """True if tasks with different tags, such as `dev` and `production`, share the database."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a repo; each has a default."""

    env: str = "dev"
    """The environment: names the second settings file, and is the default of `flow_tag`."""

    flow_tag: str = ""
    """Tag of the runs and folder of their markers; `production` sets the flows' `production`.

    Default: the name of the environment."""

    runner: Literal["process", "container"] = "process"
    """Where a flow runs: as a process on this machine, or in a container of its own image."""

    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Time after which a flow is stopped, e.g. 90 (seconds), 15m or 2h; None for no limit."""

    container_kwargs: dict[str, Any] = {}
    """What a flow's container has, e.g. `memory: 4g`; see `docs/containers.md`."""

    s3_timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Time after which a task, or a step of a flow, no longer waits for S3, e.g. 90 or 2m."""

    metaflow: MetaflowSettings = MetaflowSettings()

    container: ContainerSettings = ContainerSettings()

    database: DatabaseSettings = DatabaseSettings()


_DEFAULTS = Settings()
_SECTIONS = {
    name: type(value)
    for name, value in msgspec.structs.asdict(_DEFAULTS).items()
    if isinstance(value, msgspec.Struct)
}

_TIMES = {"timeout", "s3_timeout"}
"""Settings that are a time, which `console.seconds` reads."""

# PyYAML lets through what Python says of a value such as `2026-02-30` or `!!timestamp soon`; text
# that is not UTF-8 is a ValueError as well.
_NOT_YAML = (yaml.YAMLError, ValueError, AttributeError)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings in force, read once for each process.

    Raises SettingsError, naming file or variable, key, and the expected value.
    """
    return load(paths.ROOT, paths.CONFIG, os.environ)


def override(name: str, text: str, source: str) -> None:
    """Set a setting for this process and those that it starts, whatever other sources say.

    Raises SettingsError, which begins with `source`.
    """
    if text:  # an empty variable sets nothing
        _check({name: _parse(text, source)}, source, strict=False)
    os.environ[f"{PREFIX}{name.upper()}"] = text
    settings.cache_clear()


def load(root: os.PathLike[str], config: os.PathLike[str], environ: Mapping[str, str]) -> Settings:
    """Merge the sources: `.env` in `root`, the YAML files in `config`, and the variables."""
    from_variables: dict[str, Any] = {}
    for variables, source in ((dotenv_variables(root), f"{Path(root, '.env')}: "), (environ, "")):
        _merge(from_variables, _from_variables(variables, source))
    env = from_variables.setdefault("env", _DEFAULTS.env)
    merged: dict[str, Any] = {}
    for layer in (_from_file(config, "base"), _from_file(config, env), from_variables):
        _merge(merged, layer)
    merged["flow_tag"] = merged.get("flow_tag") or env
    return msgspec.convert(merged, Settings, strict=False)


def dotenv_variables(root: os.PathLike[str]) -> dict[str, str]:
    """The variables of `.env` in the folder; none where it has no such file."""
    try:
        values = dotenv.dotenv_values(Path(root, ".env"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{Path(root, '.env')} is not UTF-8: {error}") from error
    return {name: value for name, value in values.items() if value is not None}


def _from_file(config: os.PathLike[str], name: str) -> dict[str, Any]:
    file = Path(config, f"{name}.yaml")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not file.is_file():
        if name in ("base", _DEFAULTS.env):
            return {}
        names = {each.stem for each in file.parent.glob("*.yaml")} - {"base"} | {_DEFAULTS.env}
        raise SettingsError(
            f"{PREFIX}ENV is {name!r}, and there is no {file}\n"
            f"hint: make the file, or use one of: {', '.join(sorted(names))}"
        )
    try:
        layer = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except _NOT_YAML as error:
        raise SettingsError(f"{file} is not YAML: {error}") from error
    if not isinstance(layer, dict):
        raise SettingsError(f"{file} must hold `key: value` pairs, not a {type(layer).__name__}")
    if "env" in layer:
        raise SettingsError(f"{file}: env cannot be set in a file\nhint: set {PREFIX}ENV")
    # A heading alone, its lines commented out, is an empty section.
    layer = {
        key: value for key, value in layer.items() if value is not None or key not in _SECTIONS
    }
    _check(layer, str(file), strict=True)
    database = layer.get("database", {})
    if database.get("password") or re.search(r"://[^/@]*:[^/@]*@", database.get("url", "")):
        raise SettingsError(
            f"{file}: database has a password, and git tracks the file\n"
            f"hint: put it into .env, as {PREFIX}DATABASE__PASSWORD"
        )
    return layer


def _from_variables(variables: Mapping[str, str], source: str) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for name, text in sorted(variables.items()):
        meant = _meant(name) if text else name  # an empty variable sets nothing
        if not name.startswith(PREFIX):
            if meant != name:
                warnings.warn(f"{source}{name} sets nothing; did you mean {meant}?", stacklevel=4)
            continue
        if not text:
            continue
        if meant != name:
            raise SettingsError(f"{source}{name}: there is no such setting; did you mean {meant}?")
        layer: Any = _parse(text, source + name)
        for level in reversed(name.removeprefix(PREFIX).lower().split("__")):
            layer = {level: layer}
        _check(layer, source + name, strict=False)
        _merge(layers, layer)
    return layers


def _meant(name: str) -> str:
    """The variable of a setting whose name differs only in its underscores; else the name."""
    if not name.startswith(PREFIX.rstrip("_")):
        return name
    keys = [field.name for field in msgspec.structs.fields(Settings)]
    for section, struct in _SECTIONS.items():
        keys += [f"{section}__{field.encode_name}" for field in msgspec.structs.fields(struct)]
    for variable in (f"{PREFIX}{key}".upper() for key in keys):
        if re.sub("_+", "_", variable) == re.sub("_+", "_", name.upper()):
            return name if variable == name.upper() else variable
    return name


def _parse(text: str, source: str) -> Any:
    """A list or mapping in YAML as such; any other text as text, which msgspec converts."""
    try:
        return yaml.safe_load(text) if text.startswith(("[", "{")) else text
    except _NOT_YAML as error:
        raise SettingsError(f"{source} is not YAML: {error}") from error


def _check(layer: dict[str, Any], source: str, *, strict: bool) -> None:
    """Raise SettingsError where a layer, taken alone, does not fit; every field has a default."""
    for name in _TIMES & layer.keys():
        if isinstance(text := layer[name], str):
            with contextlib.suppress(ValueError):
                layer[name] = seconds(text)
    try:
        msgspec.convert(layer, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error))}") from error


def _explain(message: str) -> str:
    """msgspec's message with the key first, and for an unknown key the keys that exist."""
    reason, _, where = message.partition(" - at `$")
    path = where.strip("`.")
    if unknown := re.search(r"unknown field `(.*)`", reason):
        key, fields = unknown[1], msgspec.structs.fields(_SECTIONS.get(path, Settings))
        names = [field.encode_name for field in fields]
        reason = f"there is no such setting{did_you_mean(key, names)}"
        reason += f"\nhint: the settings are {', '.join(names)}"
        path = f"{path}.{key}".lstrip(".")
    elif path == "runner":
        reason += "; it is 'process' or 'container'"
    elif path in _TIMES and "got `str`" in reason:
        reason += f"; it is {TIME}"
    return f"{path or 'the file'}: {reason}"


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
