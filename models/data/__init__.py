"""Labelled street pictures: read from disk or hub, drawn, and changed as the validators change them."""
