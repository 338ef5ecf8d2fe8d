"""What is searched and how: spaces, Optuna's sampler and study, ASHA, the budget."""
