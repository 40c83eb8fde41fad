"""Models that read a question beside the picture: how they are asked (`prompts`, `asking`), and who answers (`scorer`,
`engine`, `endpoint`)."""
