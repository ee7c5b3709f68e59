"""The decorator that connects a flow to its task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from metaflow import FlowMutator, FlowSpec, Parameter, current, user_step_decorator

from .handover import is_production, write_result

Flow = TypeVar("Flow", bound=type[FlowSpec])

_DONE = "_talks_to_luigi"


def talk_to_luigi(flow: Flow) -> Flow:
    """Connect the flow class to the MetaflowTask that runs it.

    The flow gets a boolean parameter `production`, which is true if the task's `flow_tag` is
    `production`, and a property `test`, its opposite. The value of `self.luigi_result` after the
    last step is the task's `output().result`: any JSON value of at most 64 KiB. Other values make
    that step fail with a TypeError or ValueError. Classes based on this one have all of it, too.

    Raises TypeError if the class is no flow, or has a `test` or `production` of its own.
    """
    if not issubclass(flow, FlowSpec):
        raise TypeError(f"talk_to_luigi is for a class based on FlowSpec, which {flow!r} is not")
    if hasattr(flow, _DONE):
        return flow  # a class that it is based on has what the decorator adds
    setattr(flow, _DONE, True)
    for name in ("production", "test"):
        if hasattr(flow, name):
            raise TypeError(f"{flow.__name__}.{name}: talk_to_luigi adds this name; rename yours")
    flow.test = property(lambda self: not self.production)
    _TalkToLuigi()(flow)
    return flow


@user_step_decorator
def _pass_result(step_name: str, flow: FlowSpec, inputs: Any) -> Iterator[None]:
    yield
    if hasattr(flow, "luigi_result"):
        write_result(str(current.run_id), flow.luigi_result)


class _TalkToLuigi(FlowMutator):
    def pre_mutate(self, mutable_flow: Any) -> None:
        parameter = Parameter(
            "production", type=bool, default=is_production, help="Is this run for production?"
        )
        mutable_flow.add_parameter("production", parameter)

    def mutate(self, mutable_flow: Any) -> None:
        # Metaflow has no public name for the step that is the last one.
        graph = getattr(getattr(mutable_flow, "_flow_cls", None), "_graph", None)
        last = getattr(graph, "end_step", "end")
        for name, step in mutable_flow.steps:
            if name == last:
                step.add_decorator(_pass_result)
