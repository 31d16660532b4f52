"""The command line without its console script: ``python -m unipruning_core.cli``."""

import sys

from unipruning_core.cli.main import main

sys.exit(main())
