"""The search: spaces, Optuna's sampler and study, ASHA, and the budget."""
