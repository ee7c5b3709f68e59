"""The smallest flow, which the benchmarks copy into a repo."""

# Metaflow has no types for its decorators.
# mypy: disable-error-code="misc, untyped-decorator"

from metaflow import FlowSpec, step


class SmallFlow(FlowSpec):
    """Two steps that do nothing."""

    @step
    def start(self) -> None:
        """Do nothing."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    SmallFlow()
