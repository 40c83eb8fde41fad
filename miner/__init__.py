"""The network edge and the operator: settings, axon, gate, chain, service, health, commands."""

__version__ = "0.1.0"
