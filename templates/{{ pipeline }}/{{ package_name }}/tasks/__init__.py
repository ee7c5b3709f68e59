"""Luigi tasks: which flows run, in what order, after what."""

import luigi

# Each task is named by its module too, so that two modules may both have a RootTask.
luigi.auto_namespace(scope=__name__)
