"""Training on an operator's own data: `./run_miner.sh train`, `train distil`, `train vlm`. Needs the extra `train`.

Read in this order: `settings` (what can be asked for), `data` (which pictures, held out by source), `batches` and
`composer` (what a step is shown), `network` (a backbone and its head), `loop` (training that survives kill -9),
`score` (calibration and figures), `package` (what is published and served), and the three commands `classify`,
`distil`, `vlm`.
"""
