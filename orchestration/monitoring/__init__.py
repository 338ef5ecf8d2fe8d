"""What a sweep shows to others while it runs: Ray's metrics for Prometheus and Grafana (`metrics`), and Weights & Biases (`wandb_runs`)."""
