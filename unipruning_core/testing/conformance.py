"""The conformance suite, whole; every check of the package is collected from here.

pytest --pyargs unipruning_core.testing.conformance -p unipruning_core.testing.plugin --backend NAME

A backend passes all of it or it is not a backend of this project: there are no skips, and no leniency for any device.
"""

from unipruning_core.testing.checks_adamw import *  # noqa: F403
from unipruning_core.testing.checks_feedback import *  # noqa: F403
from unipruning_core.testing.checks_manifest import *  # noqa: F403
from unipruning_core.testing.checks_masks import *  # noqa: F403
from unipruning_core.testing.checks_nonfinite import *  # noqa: F403
from unipruning_core.testing.checks_prox import *  # noqa: F403
from unipruning_core.testing.checks_search import *  # noqa: F403
from unipruning_core.testing.checks_select import *  # noqa: F403
from unipruning_core.testing.checks_step import *  # noqa: F403
from unipruning_core.testing.checks_sums import *  # noqa: F403
