"""``python -m unipruning_core.cli``: the command line without its console script."""

import sys

from unipruning_core.cli.main import main

sys.exit(main())
