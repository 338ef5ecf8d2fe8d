"""The outcome of a sweep: results, tables, the report and the model card."""
