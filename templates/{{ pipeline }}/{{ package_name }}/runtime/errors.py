"""What can go wrong by the user's doing; every message says the way out."""


class PipelineError(Exception):
    """Base of the errors that are shown as a message, without a traceback."""


class SettingsError(PipelineError):
    """A settings file or variable has a wrong key or a wrong value."""


class FlowNotFoundError(PipelineError):
    """A flow's path is outside `flows/`, is missing, or holds no flow."""


class ParameterError(PipelineError):
    """A value cannot be handed to a flow."""


class FlowFailedError(PipelineError):
    """A flow ran and did not succeed; the message has the step and its traceback."""
