"""What can go wrong by the user's doing; every message says the way out."""


class PipelineError(Exception):
    """Base of the errors that are shown as a message, without a traceback."""


class InvalidSettings(PipelineError):
    """A settings file or variable has a wrong key or a wrong value."""


class FlowNotFound(PipelineError):
    """A flow's path is outside `flows/`, is missing, or holds no flow."""


class InvalidParameter(PipelineError):
    """A value cannot be handed to a flow."""


class FlowFailed(PipelineError):
    """A flow ran and did not succeed; the message has the step and its traceback."""
