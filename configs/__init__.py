"""The shipped configurations, one YAML file an experiment."""
