"""`python -m kdump_initramfs`."""

import sys

from kdump_initramfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
