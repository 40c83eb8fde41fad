"""From labelled pictures to weights that can ship."""
