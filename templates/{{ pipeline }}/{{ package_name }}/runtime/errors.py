"""What can go wrong by the user's doing; every message says the way out."""


class PipelineError(Exception):
    """Base of the errors that are shown as a message, without a traceback."""


class SettingsError(PipelineError):
    """A settings file or variable has a wrong key or a wrong value."""


class FlowNotFoundError(PipelineError):
    """A flow's path is outside `flows/`, is missing, or holds no flow."""


class ParameterError(PipelineError):
    """What a task or its flow is given has a name or a value that it cannot have."""


class RequirementsError(PipelineError):
    """A flow's `requirements.txt` cannot be had on top of the repo's environment."""


class ImageError(PipelineError):
    """A flow's image cannot be built, or there is no engine that could."""


class FlowFailedError(PipelineError):
    """A flow ran and did not succeed; the message has the step and its traceback."""
