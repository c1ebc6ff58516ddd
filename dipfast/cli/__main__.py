"""Run the `dipfast` command as `python -m dipfast.cli`."""

import sys

from dipfast.cli.app import main

sys.exit(main())
