"""The command line as a module, which launchers can start: ``torchrun -m unipruning_core``."""

import sys

from unipruning_core.cli.main import main

sys.exit(main())
