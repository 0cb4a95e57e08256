"""The shipped configurations, one YAML file per experiment."""
