#!/usr/bin/env bash
# What each means brings to the embedded network: one out-of-fold run per row, tables in $WORK/<name>.md.
# Usage: benchmarks/sweep_embedded.sh DATA WORK      Two CPU cores: about half an hour a row. Needs the extra `train`.
set -euo pipefail
data=$1 work=$2

row() {
    local name=$1
    shift
    python -m models.training.embedded --data "$data" --work "$work" --name "$name" --only-evaluate "$@"
}

row plain --set fit.pasted_share=0.0 --set fit.control_share=0.0 --set fit.upper_share=0.0
row pasted --set fit.control_share=0.0 --set fit.upper_share=0.0
row pasted-and-controls --set fit.upper_share=0.0
row all
row depthwise --set fit.depthwise=true
row longer --set fit.steps=1200
row earlier-cut --set cut=5 --set fit.steps=1200
row side-288 --set side=288 --set fit.steps=1200
row more-views --set views.roadwork=20 --set views.clear=6 --set views.pasted=8 --set fit.steps=1200
