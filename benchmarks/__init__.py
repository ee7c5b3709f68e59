"""The figures that speed is judged by: `nox -s bench`."""
