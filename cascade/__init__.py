"""The decision: tiers of models, routing, fusion, calibration. numpy only; models are injected."""
