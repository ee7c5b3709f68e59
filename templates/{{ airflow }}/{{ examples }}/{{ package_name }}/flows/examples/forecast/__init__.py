"""A forecast of CO2: one flow makes features, one trains a model, and one predicts with it."""
