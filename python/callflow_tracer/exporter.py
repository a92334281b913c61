"""`callflow_tracer.exporter`: re-exports of `spprof.exporter`."""

from spprof.exporter import CSVExporter, JSONExporter, SVGExporter, export_csv, export_json

__all__ = ["CSVExporter", "JSONExporter", "SVGExporter", "export_csv", "export_json"]
