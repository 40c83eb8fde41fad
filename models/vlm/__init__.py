"""Vision-language models: asked one question about one picture, answered by the log-odds of yes against no."""
