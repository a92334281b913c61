"""`callflow_tracer.profiling`: re-exports of `spprof.profiling`."""

from spprof.profiling import (
    PerformanceStats,
    compare_profiles,
    get_cpu_profile,
    get_memory_profile,
    get_memory_usage,
    profile_function,
    profile_section,
)

__all__ = [
    "PerformanceStats",
    "compare_profiles",
    "get_cpu_profile",
    "get_memory_profile",
    "get_memory_usage",
    "profile_function",
    "profile_section",
]
