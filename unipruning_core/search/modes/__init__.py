"""The modes of a search, one file each; ``MODES`` registers them, in the order in which help lists them."""

from unipruning_core.search.modes.coupled import CoupledSettings
from unipruning_core.search.modes.drift import DriftSettings
from unipruning_core.search.modes.feedback import FeedbackSettings
from unipruning_core.search.modes.frozen import FrozenSettings
from unipruning_core.search.settings import Settings

MODES: dict[str, type[Settings]] = {
    kind.mode: kind for kind in (FeedbackSettings, DriftSettings, FrozenSettings, CoupledSettings)
}
DEFAULT_MODE = FeedbackSettings.mode
