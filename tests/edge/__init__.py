"""Tools of the edge's tests: the recorder of the stock axon's answers, and signed requests made by hand."""
