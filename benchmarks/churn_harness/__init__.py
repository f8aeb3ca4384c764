"""Fifty fine-tunes on two slots while engines, pool and predictors are killed: what `make churn` and its test run."""
