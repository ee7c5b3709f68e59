"""Lets a browser open cards and markers on this machine, for whoever is logged in to Airflow.

`nox -s airflow` loads it. The buttons on the page of a task lead here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from airflow.api_fastapi.core_api.security import GetUserDep  # of Airflow's own pages
from airflow.plugins_manager import AirflowPlugin
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

FOLDER = (Path(__file__).resolve().parents[2] / ".metaflow").resolve()
"""Where runs have their files, unless Metaflow is set up for another place."""

KINDS = {".html", ".json"}

HEADERS = {"Content-Security-Policy": "sandbox allow-scripts allow-popups"}
"""A card's scripts get nothing of Airflow's pages, such as the login."""

files = FastAPI(openapi_url=None)


@files.get("/{path:path}")
def show(path: str, user: GetUserDep) -> FileResponse:
    """The card or the marker at the path below the folder."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # of a name that can be none
        file = (FOLDER / path).resolve()
        if file.is_relative_to(FOLDER) and file.suffix in KINDS and file.is_file():
            return FileResponse(file, headers=HEADERS)
    raise HTTPException(404, "there is no such card or marker")


class FilesOfRuns(AirflowPlugin):  # type: ignore[misc]
    """What Airflow loads."""

    name = "files_of_runs"
    fastapi_apps = [{"app": files, "url_prefix": "/files", "name": "files of runs"}]  # noqa: RUF012
