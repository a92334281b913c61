"""`python -m callflow_tracer` is `callflow-tracer`."""

from callflow_tracer.cli import main

main()
