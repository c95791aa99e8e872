#!/bin/sh
# Makes block devices and file systems of many kinds and crashes on those that the tool accepts: zoo_guest.py.
set -eu
exec python3 zoo_guest.py
