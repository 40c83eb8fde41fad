"""The network edge and the operator: settings, axon, gate, chain, service, health, commands."""
