"""`python -m egs.bench`: see `device.py`."""

from egs.bench.device import main

main()
