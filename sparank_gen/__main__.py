"""``python -m sparank_gen``."""

from sparank_gen.cli import main

main()
