"""Callbacks that show a running sweep: console, Prometheus and Grafana, Weights & Biases."""
