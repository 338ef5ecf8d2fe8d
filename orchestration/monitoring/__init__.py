"""What shows a sweep outside its own terminal while it runs: Ray's metrics (`metrics`) with configurations for Prometheus and Grafana, and
Weights & Biases (`wandb_runs`)."""
