"""The network that ships with the project: weights, calibration, card, and the class that runs them."""
