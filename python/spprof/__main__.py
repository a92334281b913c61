"""`python -m spprof` is `spprof`."""

from spprof.cli import main

main()
